"""How a connection is made: through which proxy, trusting whom, and as whom."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from edgeai.errors import CloudProtocol, ConfigError

if TYPE_CHECKING:
    import ssl


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """The way to an endpoint. The default trusts the usual authorities and takes the environment's proxy.

    ca_file: PEM certificates to trust instead of the usual ones (a company's own authority).
    client_cert: PEM file that says who we are; ``client_key`` its key when that is in a file of its own, and
        ``client_password`` the key's.
    proxy: URL of an HTTP or SOCKS proxy; None: what HTTPS_PROXY and NO_PROXY say; "": none at all.

    Files are read at the first connection. Raises ConfigError for a proxy that is no URL.
    """

    ca_file: str | Path | None = None
    client_cert: str | Path | None = None
    client_key: str | Path | None = None
    client_password: str | None = field(default=None, repr=False)
    proxy: str | None = field(default=None, repr=False)  # it may hold a password

    def __post_init__(self) -> None:
        if self.proxy and (
            urlsplit(self.proxy).scheme not in ("http", "https", "socks5", "socks5h")
            or not urlsplit(self.proxy).hostname
        ):
            raise ConfigError("proxy is not an address", remedy="Give one like http://proxy.corp:3128")
        if self.client_key and not self.client_cert:
            raise ConfigError("client_key needs a client_cert")


DIRECT = Link()


def tls_of(link: Link) -> "ssl.SSLContext":
    """What this link trusts and shows. Raises CloudProtocol for a file that cannot be used."""
    import ssl

    import httpx

    try:
        context = (
            ssl.create_default_context(cafile=link.ca_file) if link.ca_file else httpx.create_ssl_context()
        )
        if link.client_cert:
            context.load_cert_chain(link.client_cert, link.client_key, link.client_password or "")
    except OSError as error:  # ssl.SSLError is one
        named = ", ".join(str(file) for file in (link.ca_file, link.client_cert, link.client_key) if file)
        unreadable = CloudProtocol(
            f"The certificates cannot be read: {named}", why=error.strerror or str(error)
        )
        unreadable.sends = 0
        raise unreadable from error
    return context
