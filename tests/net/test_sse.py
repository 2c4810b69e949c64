from itertools import pairwise

import httpx
import httpx_sse
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeai.errors import CloudProtocol
from edgeai.net.sse import MAX_EVENT, MAX_TOTAL, EventDecoder

LINES = st.sampled_from(
    [
        "data: a",
        "data:b",
        "data",
        "data:  c",
        "event: e",
        "event:",
        "id: 1",
        "retry: 5",
        ": note",
        "x: y",
        "",
        "",
    ]
) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=8)
STREAMS = st.lists(st.tuples(LINES, st.sampled_from(["\n", "\r\n", "\r"]))).map(
    lambda lines: "".join(line + end for line, end in lines)
)


def read(stream: bytes, cuts: list[int]) -> list[tuple[str, str]]:
    decoder = EventDecoder()
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    parts = [stream[a:b] for a, b in pairwise(edges)]
    return [(event.event, event.data) for part in parts for event in decoder.feed(part)]


@given(STREAMS, st.lists(st.integers(0, 10_000)))
def test_cuts_do_not_matter(text: str, cuts: list[int]) -> None:
    """The same bytes give the same events, wherever the network cuts them."""
    assert read(text.encode(), cuts) == read(text.encode(), [])


@given(STREAMS)
def test_same_as_httpx_sse(text: str) -> None:
    """Our events are those of httpx-sse, which knows no limits, except that we drop events without data."""
    response = httpx.Response(
        200, headers={"content-type": "text/event-stream"}, content=text.removeprefix("\ufeff").encode()
    )
    events = httpx_sse.EventSource(response).iter_sse()
    ours = read(text.encode(), [])
    assert [e for e in ours if e[1]] == [(e.event, e.data) for e in events if e.data]


def test_event_cut_off_by_the_end_is_dropped() -> None:
    """What no empty line ends is not an event."""
    assert read(b"data: a\n\ndata: b\n", []) == [("message", "a")]


@pytest.mark.parametrize("stream", [b"data: \xff\n\n", b"data: \xe2\x82\n\n", b"event: \xff\ndata: a\n\n"])
def test_bad_utf8(stream: bytes) -> None:
    """Bytes that are not UTF-8 are refused, not replaced."""
    with pytest.raises(CloudProtocol, match="UTF-8"):
        read(stream, [])


@pytest.mark.parametrize(
    "chunk",
    [
        b"x" * 65536,
        b"data: " + b"x" * 65530,
        b"data: y\n" * 8192,
        (b":" + b"n" * 500 + b"\n\n") * 130,
        b"data\n" * 8192,
    ],
)
def test_endless_streams_are_cut(chunk: bytes) -> None:
    """No stream, whatever its lines, is read for ever or kept beyond a bound."""
    decoder = EventDecoder()

    def feed_for_ever() -> None:
        fed = 0
        while True:
            decoder.feed(chunk)
            fed += len(chunk)
            assert fed <= MAX_TOTAL
            assert len(decoder._rest) + decoder._size <= 2 * MAX_EVENT + len(chunk)

    with pytest.raises(CloudProtocol, match="longer than"):
        feed_for_ever()
