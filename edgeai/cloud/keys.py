"""Where a provider's key is found. It is in no repr, and in no message of ours."""

import asyncio
import os
from dataclasses import dataclass, field

from edgeai.errors import CloudAuth

SERVICE = "edgeai"  # the keyring's name for us: `keyring set edgeai OPENAI_API_KEY`


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """The key given, else the environment's, else the keyring's (extra "keyring"); looked up at each call.

    ``value`` "" means that the server wants none, as does ``needed=False`` when none is found.
    """

    value: str | None = field(default=None, repr=False)
    variable: str | None = None
    needed: bool = True

    async def find(self) -> str:
        """The key, or "" when none is to be sent. Raises CloudAuth, with ``sends`` 0."""
        key, source = self.value, "key"
        if key is None and self.variable:
            key, source = os.environ.get(self.variable, ""), self.variable
            if not key.strip():  # asking a keyring can take long, and wait for the user
                key = await asyncio.to_thread(_from_keyring, self.variable) or ""
        key = (key or "").strip()
        if not key and self.value != "" and self.needed:
            raise _unsent(
                f"There is no {self.variable}" if self.variable else "Neither key nor key_variable was given",
                remedy=f"Set {self.variable}, or give key=…" if self.variable else "Give one of them",
            )
        if not (key.isascii() and key.isprintable()) or " " in key:
            # It cannot be a header, and httpx would quote the whole key in its complaint.
            raise _unsent(f"The key ({source}) holds spaces or characters that no key has")
        return key


def _from_keyring(variable: str) -> str | None:
    """The password that the system's keyring keeps for us under this name; None without one."""
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError:
        return None
    try:
        return keyring.get_password(SERVICE, variable)
    except KeyringError:  # there is no keyring, or it is locked
        return None


def _unsent(what: str, remedy: str | None = None) -> CloudAuth:
    error = CloudAuth(what, remedy=remedy)
    error.sends = 0
    return error
