"""Amazon's request signature, version 4, for a POST with a body.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """An access key of Amazon's; ``token`` when it is a temporary one."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str = field(default="", repr=False)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no message may hold."""
        return tuple(secret for secret in (self.secret_key, self.token) if secret)


def signed(
    url: str, body: bytes, credentials: Credentials, *, region: str, service: str, now: datetime | None = None
) -> tuple[tuple[str, str], ...]:
    """The headers that sign this POST; they are valid for some minutes."""
    moment = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    headers = {"content-type": "application/json", "host": urlsplit(url).netloc, "x-amz-date": moment}
    if credentials.token:
        headers["x-amz-security-token"] = credentials.token
    names, scope = ";".join(sorted(headers)), f"{moment[:8]}/{region}/{service}/aws4_request"
    canonical = "\n".join(
        [
            "POST",
            quote(urlsplit(url).path, safe="/-_.~"),  # encoded once more than in the URL, so the rule
            "",
            *(f"{name}:{headers[name]}" for name in sorted(headers)),
            "",
            names,
            hashlib.sha256(body).hexdigest(),
        ]
    )
    to_sign = "\n".join([ALGORITHM, moment, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{credentials.secret_key}".encode()
    for part in scope.split("/"):
        key = _hmac(key, part)
    who, signature = f"{credentials.access_key}/{scope}", _hmac(key, to_sign).hex()
    proof = f"Credential={who}, SignedHeaders={names}, Signature={signature}"
    shown = {name: value for name, value in headers.items() if name.startswith("x-amz-")}
    return (("Authorization", f"{ALGORITHM} {proof}"), *shown.items())


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
