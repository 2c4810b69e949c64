"""The HTTP clients: one for each event loop, so that connections are kept and used again."""

import asyncio
from collections.abc import AsyncGenerator
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

    import httpx

IDLE_S = 60.0  # how long an unused connection is kept


@cache
def tls_context() -> "ssl.SSLContext":
    """The process's trusted certificates, read once: that takes longer than a request."""
    import httpx

    return httpx.create_ssl_context()


async def shared_client() -> "httpx.AsyncClient":
    """The running loop's client, made at the first call and closed with the loop."""
    loop = asyncio.get_running_loop()
    if loop not in _open:
        await asyncio.to_thread(tls_context)  # also imports httpx: too slow for somebody's loop
    if loop not in _open:
        for old in [old for old in _open if old.is_closed()]:
            del _open[old]
        keeper = _keep(loop)
        _open[loop] = await anext(keeper), keeper
    return _open[loop][0]


async def _keep(loop: asyncio.AbstractEventLoop) -> AsyncGenerator["httpx.AsyncClient", None]:
    """Hold a client open until the loop ends its generators, which asyncio.run does before it closes it."""
    import httpx

    limits = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=IDLE_S)
    no_cookies = CookieJar(
        DefaultCookiePolicy(allowed_domains=[])
    )  # nobody follows our users from call to call
    async with httpx.AsyncClient(verify=tls_context(), limits=limits, cookies=no_cookies) as client:
        try:
            yield client
        finally:
            _open.pop(loop, None)


_open: dict[
    asyncio.AbstractEventLoop, tuple["httpx.AsyncClient", AsyncGenerator["httpx.AsyncClient", None]]
] = {}
