"""Takes out of a report what nobody else needs to know: who, where, and which paths and addresses."""

import getpass
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\",]+", re.IGNORECASE)
# From a slash, a drive or a tilde to the next space; nodes of devices tell nothing about a person.
PATH = re.compile(r"(?<![\w<./])(?:~|[A-Za-z]:)?[\\/](?!dev/)[^\s'\",;:]*[\w)]")
ADDRESS = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b")


def scrub(value: Any) -> Any:  # noqa: ANN401  # whatever JSON holds
    """The value with addresses, paths, and the names of user and host replaced, however deep."""
    if isinstance(value, Mapping):
        return {key: scrub(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [scrub(inner) for inner in value]
    return _clean(value) if isinstance(value, str) else value


def _clean(text: str) -> str:
    text = ADDRESS.sub("<address>", PATH.sub("<path>", URL.sub("<address>", text)))
    for name, word in _names():
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", word, text, flags=re.IGNORECASE)
    return text


def _names() -> list[tuple[str, str]]:
    """The longest first: one may be a part of another."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no such user in the password file, no variable either
        user = ""
    names = [(user, "<user>"), (Path.home().name, "<user>"), (platform.node(), "<host>")]
    return sorted(((name, word) for name, word in names if name), key=lambda pair: -len(pair[0]))
