"""The HTTP clients: one for each event loop, so that connections are kept and used again."""

import asyncio
from collections.abc import AsyncGenerator
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING

from edgeai.net.link import DIRECT, Link, tls_of

if TYPE_CHECKING:
    import ssl

    import httpx

IDLE_S = 60.0  # how long an unused connection is kept


@cache
def tls_context() -> "ssl.SSLContext":
    """The process's trusted certificates, read once: that takes longer than a request."""
    import httpx

    return httpx.create_ssl_context()


async def shared_client(link: Link = DIRECT) -> "httpx.AsyncClient":
    """The running loop's client for this link, made at the first call and closed with the loop."""
    place = asyncio.get_running_loop(), link
    if place not in _open:
        await asyncio.to_thread(_tls, link)  # also imports httpx: too slow for somebody's loop
    if place not in _open:
        for old in [old for old in _open if old[0].is_closed()]:
            del _open[old]
        keeper = _keep(place)
        _open[place] = await anext(keeper), keeper
    return _open[place][0]


@cache
def _tls(link: Link) -> "ssl.SSLContext":
    return tls_of(link) if link.ca_file or link.client_cert else tls_context()


async def _keep(place: "Place") -> AsyncGenerator["httpx.AsyncClient", None]:
    """Hold a client open until the loop ends its generators, which asyncio.run does before it closes it."""
    import httpx

    limits = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=IDLE_S)
    no_cookies = CookieJar(
        DefaultCookiePolicy(allowed_domains=[])
    )  # nobody follows our users from call to call
    link = place[1]
    async with httpx.AsyncClient(
        verify=_tls(link),
        limits=limits,
        cookies=no_cookies,
        proxy=link.proxy or None,
        trust_env=link.proxy is None,
    ) as client:
        try:
            yield client
        finally:
            _open.pop(place, None)


Place = tuple[asyncio.AbstractEventLoop, Link]
_open: dict[Place, tuple["httpx.AsyncClient", AsyncGenerator["httpx.AsyncClient", None]]] = {}
