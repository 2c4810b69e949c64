"""The network, and the only part of edgeai that imports httpx; it does so at the first call.

All that leaves these functions is CloudError's leaves; `download` raises DownloadFailed and DiskFull.
"""

from collections.abc import AsyncGenerator

from edgeai.net.background import submit
from edgeai.net.calls import HttpCall, Retry, ServerEvent, Timeouts, place
from edgeai.net.faults import quote
from edgeai.net.link import Link
from edgeai.net.transfer import download

__all__ = [
    "HttpCall",
    "Link",
    "Retry",
    "ServerEvent",
    "Timeouts",
    "download",
    "place",
    "quote",
    "stream_events",
    "submit",
]


def stream_events(call: HttpCall, *, timeouts: Timeouts, retry: Retry) -> AsyncGenerator[ServerEvent, None]:
    """The events of the call's answer, as they arrive, on the running event loop.

    Tried again, before the first event only, when there was no connection or the server answered 408, 429 or
    5xx. No redirect is followed. Raises CloudError's leaves, whose ``sends`` counts all tries. Closing the
    generator, or cancelling its task, closes the connection at once.
    """
    from edgeai.net.stream import read_events

    return read_events(call, timeouts, retry)
