"""Amazon's own library (botocore), for what only it knows: profiles, sign-in (SSO), roles, programs.

It may open connections to Amazon's sign-in addresses, never with anything of a query.
"""

from functools import cache
from typing import TYPE_CHECKING

from edgeai.cloud.sigv4 import Credentials
from edgeai.errors import CloudAuth, MissingExtra

if TYPE_CHECKING:
    from botocore.session import Session


def require() -> None:
    """Raise MissingExtra without the library."""
    try:
        import botocore.session  # noqa: F401  # only whether it is there
    except ImportError as error:
        raise MissingExtra("AWS profiles need botocore", extra="bedrock", why=str(error)) from error


def region_of(profile: str) -> str | None:
    """The region in the profile's settings, None without one. Raises CloudAuth when there is no profile."""
    from botocore.exceptions import BotoCoreError

    try:
        region: str | None = _session(profile).get_config_variable("region")
    except BotoCoreError as error:
        raise _unusable(profile, error) from error
    return region


def credentials_of(profile: str) -> Credentials:
    """The profile's access key, renewed when it has run out. Raises CloudAuth. Blocks."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        found = _session(profile).get_credentials()
        frozen = None if found is None else found.get_frozen_credentials()
    except (BotoCoreError, ClientError) as error:
        raise _unusable(profile, error) from error
    if frozen is None:
        raise _unusable(profile, None)
    return Credentials(access_key=frozen.access_key, secret_key=frozen.secret_key, token=frozen.token or "")


@cache
def _session(profile: str) -> "Session":
    """One for each profile: it keeps what it has fetched until that runs out."""
    from botocore.session import Session

    return Session(profile=profile)


def _unusable(profile: str, error: Exception | None) -> CloudAuth:
    return CloudAuth(
        f"The AWS profile {profile!r} cannot be used",
        why="It has no access key" if error is None else str(error)[:300],
        remedy=f"Look at it: aws configure list --profile {profile}; or sign in: aws sso login",
    )
