import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from edgeai import errors
from edgeai.net import Timeouts
from edgeai.net.faults import mapped, quote, retry_after_s, status_error

BUGS = {
    httpx.StreamError,
    httpx.StreamConsumed,
    httpx.StreamClosed,
    httpx.ResponseNotRead,
    httpx.RequestNotRead,
}
WANTED: dict[type[Exception], type[errors.CloudError]] = {
    httpx.HTTPError: errors.CloudProtocol,
    httpx.RequestError: errors.CloudProtocol,
    httpx.TransportError: errors.CloudProtocol,
    httpx.TimeoutException: errors.CloudTimeout,
    httpx.ConnectTimeout: errors.CloudTimeout,
    httpx.ReadTimeout: errors.CloudTimeout,
    httpx.WriteTimeout: errors.CloudTimeout,
    httpx.PoolTimeout: errors.CloudTimeout,
    httpx.NetworkError: errors.CloudUnavailable,
    httpx.ConnectError: errors.CloudUnavailable,
    httpx.ReadError: errors.CloudUnavailable,
    httpx.WriteError: errors.CloudUnavailable,
    httpx.CloseError: errors.CloudUnavailable,
    httpx.ProxyError: errors.CloudUnavailable,
    httpx.ProtocolError: errors.CloudProtocol,
    httpx.LocalProtocolError: errors.CloudProtocol,
    httpx.RemoteProtocolError: errors.CloudUnavailable,
    httpx.UnsupportedProtocol: errors.CloudProtocol,
    httpx.DecodingError: errors.CloudProtocol,
    httpx.TooManyRedirects: errors.CloudProtocol,
    httpx.HTTPStatusError: errors.CloudProtocol,
    httpx.InvalidURL: errors.CloudProtocol,
    httpx.CookieConflict: errors.CloudProtocol,
}


def test_every_exception_of_httpx_is_considered() -> None:
    """No exception of httpx is new to us: each is mapped, or is known to mean a bug of ours."""
    public = {value for name in httpx.__all__ if isinstance(value := getattr(httpx, name), type)}
    assert {kind for kind in public if issubclass(kind, Exception)} == BUGS | set(WANTED)


@pytest.mark.parametrize("kind", WANTED)
def test_mapping(kind: type[Exception]) -> None:
    """Each exception becomes its leaf, with the address, and without the secret that it may quote."""
    error = kind.__new__(kind)
    Exception.__init__(error, "boom sk-123")
    with pytest.raises(errors.CloudError) as caught, mapped("http://host/v1", Timeouts(), ("sk-123",)):
        raise error
    assert type(caught.value) is WANTED[kind]
    assert "http://host/v1" in str(caught.value)
    assert "sk-123" not in str(caught.value)
    assert caught.value.__cause__ is error


def test_bugs_stay_bugs() -> None:
    """A TypeError, or httpx used wrongly, is not dressed up as a failure of the network."""
    for bug in (TypeError(), httpx.StreamClosed()):
        with pytest.raises(type(bug)), mapped("http://host", Timeouts()):
            raise bug


@pytest.mark.parametrize(
    ("status", "leaf"),
    [
        (302, errors.CloudProtocol),
        (400, errors.CloudProtocol),
        (401, errors.CloudAuth),
        (403, errors.CloudAuth),
        (404, errors.CloudProtocol),
        (408, errors.CloudUnavailable),
        (422, errors.CloudProtocol),
        (429, errors.CloudRateLimited),
        (500, errors.CloudUnavailable),
        (504, errors.CloudUnavailable),
        (529, errors.CloudUnavailable),
    ],
)
def test_statuses(status: int, leaf: type[errors.CloudError]) -> None:
    """Each status has its leaf; the server's own words are in it."""
    body = json.dumps({"error": {"message": "the reason", "type": "t"}}).encode()
    error = status_error(status, {"content-type": "application/json"}, body, "http://host")
    assert type(error) is leaf
    assert f"HTTP {status}" in str(error)
    assert status == 302 or "the reason" in str(error)


@pytest.mark.parametrize(
    ("body", "kind", "told"),
    [
        (b'{"error": "plain"}', "application/json", "plain"),
        (b'{"detail": "d"}', "application/json", "d"),
        (b'{"message": "m"}', "application/json", "m"),
        (b'{"error": {"code": 7}}', "application/json", '{"error": {"code": 7}}'),
        (b"[1]", "application/json", "[1]"),
        (b"[" * 100_000, "application/json", "[" * 299 + "…"),
        (b"sad\x1b[31m\nserver", "text/plain", "sad [31m server"),
        (b"<!doctype html>...", "", "The answer is a web page, not an API's"),
        (b"no key sk-123!", "text/plain", "no key [key]!"),
        (b"\xff\xfe", "text/plain", "\ufffd\ufffd"),
        (b"", "", None),
    ],
)
def test_server_words(body: bytes, kind: str, told: str | None) -> None:
    """The server's message is found in all usual shapes, bounded, harmless to a terminal, without the key."""
    assert status_error(400, {"content-type": kind}, body, "http://host", ("sk-123",)).why == told


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e400"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "Wed, 99 Oct 2015 07:28:00 GMT"}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds, milliseconds and dates are understood; nonsense is no wish."""
    assert retry_after_s(headers) == seconds


def test_retry_after_date() -> None:
    """A date in the future is that many seconds away."""
    when = datetime.now(UTC) + timedelta(seconds=60)
    seconds = retry_after_s({"retry-after": format_datetime(when, usegmt=True)})
    assert seconds is not None
    assert 55 < seconds <= 60


def test_quote_is_bounded() -> None:
    """However long a foreign message is, ours stays short."""
    assert len(quote("x" * 10_000)) == 300


@pytest.mark.parametrize(
    ("status", "body", "leaf", "told"),
    [
        (400, {"error": {"message": "max_tokens: too large"}}, errors.CloudProtocol, "too large"),  # OpenAI
        (401, {"type": "error", "error": {"message": "invalid x-api-key"}}, errors.CloudAuth, "x-api-key"),
        (529, {"type": "error", "error": {"message": "Overloaded"}}, errors.CloudUnavailable, "Overloaded"),
        (
            400,
            {"error": {"message": "API key not valid.", "code": 400}},
            errors.CloudAuth,
            "not valid",
        ),  # Google
        (400, {"error": {"code": "content_filter", "message": "filtered"}}, errors.CloudRefused, "filtered"),
        (402, {"error": {"message": "Insufficient Balance"}}, errors.CloudAuth, "Balance"),  # DeepSeek
        (403, {"message": "no access to the model"}, errors.CloudAuth, "no access"),  # Amazon
        (424, {"message": "model error"}, errors.CloudProtocol, "model error"),
        (429, {"message": "Too many tokens"}, errors.CloudRateLimited, "Too many"),
        (422, {"detail": "owner/name is gone"}, errors.CloudProtocol, "gone"),  # Replicate
    ],
)
def test_what_providers_answer(
    status: int, body: dict[str, object], leaf: type[errors.CloudError], told: str
) -> None:
    """Each provider's refusal is the leaf that fits, with the provider's own words."""
    made = status_error(status, {"content-type": "application/json"}, json.dumps(body).encode(), "https://h")
    assert type(made) is leaf
    assert told in str(made)
