"""Everything that can go wrong on the network, as CloudError's leaves: the one place that maps httpx."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from edgeai.errors import (
    CloudAuth,
    CloudError,
    CloudProtocol,
    CloudRateLimited,
    CloudTimeout,
    CloudUnavailable,
)
from edgeai.net.calls import Timeouts

MAX_QUOTE = 300  # characters of a foreign message that we repeat


def quote(text: str, secrets: tuple[str, ...] = ()) -> str:
    """A foreign message for one of ours: without secrets and control characters, on one line, bounded."""
    for secret in secrets:
        if len(secret) > 3:  # a shorter one is a placeholder, and part of many words
            text = text.replace(secret, "[key]")
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= MAX_QUOTE else text[: MAX_QUOTE - 1] + "…"


@contextmanager
def mapped(where: str, timeouts: Timeouts, secrets: tuple[str, ...] = ()) -> Iterator[None]:
    """Turn httpx's exceptions into CloudError's leaves. Its StreamError means a bug of ours and stays."""
    import ssl

    import httpx

    try:
        yield
    except ssl.SSLError as error:  # httpx lets it through where a server's refusal comes after the handshake
        why = quote(str(error), secrets)
        raise CloudUnavailable(f"The connection to {where} broke", why=why) from error
    except (httpx.HTTPError, httpx.InvalidURL, httpx.CookieConflict) as error:
        mapped_error = translate(error, where, timeouts, secrets)
        unsent = httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ConnectError, httpx.UnsupportedProtocol
        mapped_error.sends = 0 if isinstance(error, (*unsent, httpx.InvalidURL)) else 1
        raise mapped_error from error


def translate(error: Exception, where: str, timeouts: Timeouts, secrets: tuple[str, ...] = ()) -> CloudError:
    """The leaf for one of httpx's exceptions; ``where`` is the URL without secrets."""
    import httpx

    why = quote(str(error), secrets) or type(error).__name__
    match error:
        case httpx.ConnectTimeout() | httpx.PoolTimeout():
            return CloudTimeout(f"No connection to {where} within {timeouts.connect_s:g} s (connect_s)")
        case httpx.TimeoutException():
            return CloudTimeout(f"Nothing moved to or from {where} for {timeouts.between_s:g} s (between_s)")
        case httpx.ConnectError() | httpx.ProxyError():
            return CloudUnavailable(f"Cannot connect to {where}", why=why)
        case httpx.NetworkError() | httpx.RemoteProtocolError():
            return CloudUnavailable(f"The connection to {where} broke", why=why)
        case httpx.UnsupportedProtocol() | httpx.InvalidURL():
            return CloudProtocol(
                f"{where} is not an address to connect to", why=why, remedy="Give an http(s) URL"
            )
        case httpx.LocalProtocolError():
            return CloudProtocol(f"The request to {where} is not valid HTTP", why=why)
        case httpx.TooManyRedirects() | httpx.DecodingError() | httpx.HTTPStatusError():
            return CloudProtocol(f"The answer of {where} cannot be used", why=why)
        case _:  # CookieConflict, and what a future httpx adds; the tests name every one it has today
            return CloudProtocol(f"The exchange with {where} failed", why=why)


def status_error(
    status: int, headers: Mapping[str, str], body: bytes, where: str, secrets: tuple[str, ...] = ()
) -> CloudError:
    """The leaf for an HTTP status that is not success; ``body`` may be cut."""
    said = server_message(body, headers.get("content-type", ""))
    why = quote(said, secrets) or None
    what = f"{where} answered HTTP {status}"
    if status in (401, 403):
        return CloudAuth(what, why=why, remedy="Check the key and what it may use")
    if status == 429:
        return CloudRateLimited(what, why=why, retry_after_s=retry_after_s(headers))
    if status == 408 or status >= 500:
        return CloudUnavailable(what, why=why)
    if 300 <= status < 400:
        target = quote(headers.get("location", "elsewhere"), secrets)
        return CloudProtocol(what, why=f"It sends us to {target}", remedy="Give the final address")
    return CloudProtocol(what, why=why)


def server_message(body: bytes, content_type: str) -> str:
    """The human part of an error body: JSON in one of the usual shapes, plain text, or its kind."""
    text = body.decode("utf-8", "replace")
    if "html" in content_type.lower() or text.lstrip()[:1] == "<":
        return "The answer is a web page, not an API's"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    for _ in range(2):
        if isinstance(value, dict):
            value = next((value[k] for k in ("error", "message", "detail") if value.get(k)), text)
    return value if isinstance(value, str) else text


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The server's wish to be left alone, in seconds from now, or None."""
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", ms := headers.get("retry-after-ms", "").strip()):
        return float(ms) / 1000
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value):
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, IndexError):
        return None
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
