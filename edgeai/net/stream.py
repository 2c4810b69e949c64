"""Post a request and read its answer as events, within time limits."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, TypeVar

from edgeai.errors import CloudError, CloudProtocol, CloudRateLimited, CloudTimeout, CloudUnavailable
from edgeai.net.calls import HttpCall, Kind, Retry, ServerEvent, Timeouts, place
from edgeai.net.clients import shared_client
from edgeai.net.eventstream import FrameDecoder
from edgeai.net.faults import mapped, quote, server_message, status_error
from edgeai.net.sse import EventDecoder
from edgeai.net.whole import WholeDecoder

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

MAX_ERROR_BODY = 16 << 10  # bytes of an error's body that are read
ERROR_BODY_S = 2.0  # and the time for it
DRAIN_S = 0.1  # how long to wait for the end of an answer that is complete, to use the connection again


async def read_events(call: HttpCall, timeouts: Timeouts, retry: Retry) -> AsyncGenerator[ServerEvent, None]:
    """See `edgeai.net.stream_events`."""
    clock = _Clock(place(call.url), timeouts)
    failures = sends = 0
    while True:
        begun = False
        try:
            async with aclosing(_events(call, timeouts)) as events:
                event = await clock.limit(anext(events, None), "first_token_s")
                if event is None:
                    raise CloudProtocol("The answer broke off", why=f"{place(call.url)} sent no event")
                begun = True
                while event is not None:
                    yield replace(event, sends=sends + 1)
                    event = await clock.limit(anext(events, None), "between_s")
                return
        except CloudError as error:
            error.sends = sends = sends + error.sends
            if begun or not isinstance(error, CloudRateLimited | CloudUnavailable):
                raise
            failures += 1
            wait_s = clock.pause(retry, failures, error)
        await asyncio.sleep(wait_s)


class _Clock:
    """The time limits of one call, all its tries together."""

    def __init__(self, where: str, timeouts: Timeouts) -> None:
        self._where, self._timeouts = where, timeouts
        self._now = asyncio.get_running_loop().time
        self._end = self._now() + timeouts.total_s

    async def limit(self, step: Awaitable[T], name: str) -> T:
        seconds: float = getattr(self._timeouts, name)
        limit = self._now() + seconds
        try:
            async with asyncio.timeout_at(min(limit, self._end)) as scope:
                return await step
        except TimeoutError:
            if not scope.expired():
                raise  # not our alarm: a CloudTimeout from the step itself
            if self._end <= limit:
                name, seconds = "total_s", self._timeouts.total_s
            raise CloudTimeout(_LATE[name].format(self._where, f"{seconds:g} s ({name})")) from None

    def pause(self, retry: Retry, failures: int, error: CloudError) -> float:
        """Seconds until the next try; raises the error when there is none."""
        wait = retry.wait_s(failures, getattr(error, "retry_after_s", None))
        if wait is None or self._now() + wait >= self._end:
            raise error
        return wait


_LATE = {
    "first_token_s": "{0} did not begin to answer within {1}",
    "between_s": "{0} stopped answering for {1}",
    "total_s": "{0} did not finish within {1}",
}


async def _events(call: HttpCall, timeouts: Timeouts) -> AsyncGenerator[ServerEvent, None]:
    with mapped(place(call.url), timeouts, call.secrets):
        client = await shared_client(call.link)
        method = "GET" if call.body is None else "POST"
        async with client.stream(
            method, call.url, content=call.body, headers=_headers(call), timeout=_limits(timeouts)
        ) as response:
            decoder = _DECODERS[await _check(response, call)]()
            async with aclosing(_raw(response)) as chunks:
                async for chunk in chunks:
                    for event in decoder.feed(chunk):
                        if event.data == call.last:
                            await _drain(chunks)
                        yield event
                        if event.data == call.last:
                            return
            for event in decoder.end():
                yield event


class _Decoder(Protocol):
    """From bytes to events; what a stream of this kind is read by."""

    def feed(self, chunk: bytes) -> list[ServerEvent]: ...

    def end(self) -> list[ServerEvent]: ...


_DECODERS: dict[Kind, type[_Decoder]] = {
    "sse": EventDecoder,
    "eventstream": FrameDecoder,
    "json": WholeDecoder,
}
_TYPES: dict[Kind, str] = {
    "sse": "text/event-stream",
    "eventstream": "application/vnd.amazon.eventstream",
    "json": "application/json",
}


async def _raw(response: "httpx.Response") -> AsyncGenerator[bytes, None]:
    async for chunk in response.aiter_raw():
        yield chunk


async def _drain(chunks: AsyncIterator[bytes]) -> None:
    import httpx

    with suppress(TimeoutError, httpx.HTTPError):  # the answer is complete whatever happens here
        async with asyncio.timeout(DRAIN_S):
            async for _ in chunks:
                pass


def _headers(call: HttpCall) -> list[tuple[str, str]]:
    fixed = [
        *([("Content-Type", "application/json")] if call.body is not None else []),
        ("Accept", ", ".join(_TYPES[kind] for kind in call.kinds)),
        ("Accept-Encoding", "identity"),  # compressed answers have no bound on their size
        ("User-Agent", "edgeai"),
    ]
    return [*fixed, *call.headers]


def _limits(timeouts: Timeouts) -> "httpx.Timeout":
    import httpx

    # Reading is timed by _Clock, which can tell the first event from the next.
    return httpx.Timeout(
        timeouts.total_s, connect=timeouts.connect_s, pool=timeouts.connect_s, write=timeouts.between_s
    )


async def _check(response: "httpx.Response", call: HttpCall) -> Kind:
    """The form of the answer. Raises unless it is one that the call understands, not compressed."""
    where, headers = place(call.url), response.headers
    kind = headers.get("content-type", "")
    if response.status_code not in (200, 201):  # 201: Replicate has begun
        raise status_error(response.status_code, headers, await _body(response), where, call.secrets)
    plain = kind.partition(";")[0].strip().lower()
    form = next((form for form in call.kinds if _TYPES[form] == plain), None)
    if form is None:
        said = quote(server_message(await _body(response), kind), call.secrets)
        raise CloudProtocol(
            f"{where} answered {quote(kind, call.secrets) or 'no content type'} and not events", why=said
        )
    if headers.get("content-encoding", "identity") != "identity":
        raise CloudProtocol(f"{where} compressed its answer although it was asked not to")
    return form


async def _body(response: "httpx.Response") -> bytes:
    """The beginning of an error's body; less when it does not come."""
    import httpx

    body = bytearray()
    with suppress(TimeoutError, httpx.HTTPError):
        async with asyncio.timeout(ERROR_BODY_S), aclosing(_raw(response)) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) >= MAX_ERROR_BODY:
                    break
    return bytes(body[:MAX_ERROR_BODY])
