"""Proxies, authorities of one's own, and client certificates."""

import asyncio
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from edgeai.errors import CloudError, CloudProtocol, CloudUnavailable, ConfigError
from edgeai.net import HttpCall, Link, Retry, Timeouts, stream_events
from tests.servers import answer, read_request, scripted

ONCE = Retry(attempts=1)
REPLY = answer("200 OK", b"data: hi\n\n", content_type="text/event-stream")


def ask(url: str, link: Link) -> list[str]:
    async def collect() -> list[str]:
        call = HttpCall(url=url, body=b"{}", link=link)
        limits = Timeouts(connect_s=2, first_token_s=2, between_s=2, total_s=5)
        return [event.data async for event in stream_events(call, timeouts=limits, retry=ONCE)]

    return asyncio.run(collect())


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, and certificates for a server and a client that it has signed."""
    folder = tmp_path_factory.mktemp("pki")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")
    openssl("req", "-x509", *ec, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=our own", "-days", "2")
    for name in ("server", "client"):
        openssl("req", *ec, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
        signs = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signs)
    return folder


@contextmanager
def tls_server(folder: Path, *, wants_client: bool) -> Iterator[str]:
    """A server with our authority's certificate; it may want one of the client, too."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=folder / "ca.pem")
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED if wants_client else ssl.CERT_NONE
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            connection, _ = listener.accept()
            with connection, context.wrap_socket(connection, server_side=True) as secure:
                secure.settimeout(5)
                read_request(secure)
                secure.sendall(REPLY)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def test_own_authority(certificates: Path) -> None:
    """A certificate of one's own authority is trusted when its file is given, and only then."""
    with tls_server(certificates, wants_client=False) as url:
        assert ask(url, Link(ca_file=certificates / "ca.pem")) == ["hi"]
    with tls_server(certificates, wants_client=False) as url, pytest.raises(CloudUnavailable, match="verify"):
        ask(url, Link())


def test_client_certificate(certificates: Path) -> None:
    """A server that wants to know who asks is shown the client's certificate."""
    ca = certificates / "ca.pem"
    shown = Link(ca_file=ca, client_cert=certificates / "client.pem", client_key=certificates / "client.key")
    with tls_server(certificates, wants_client=True) as url:
        assert ask(url, shown) == ["hi"]
    with tls_server(certificates, wants_client=True) as url, pytest.raises(CloudError):
        ask(url, Link(ca_file=ca))


def test_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy is asked for the address; "" goes around the environment's; its password is in no repr."""
    with scripted(lambda connection, request: connection.sendall(REPLY)) as proxy:
        link = Link(proxy=proxy.url.replace("http://", "http://me:secret@"))
        assert ask("http://provider.invalid/v1", link) == ["hi"]
        assert proxy.requests[0].startswith(b"POST http://provider.invalid/v1 ")
        assert b"proxy-authorization: basic" in proxy.requests[0].lower()
        assert "secret" not in repr(link)
        with scripted(lambda connection, request: connection.sendall(REPLY)) as server:
            monkeypatch.setenv("HTTP_PROXY", proxy.url)
            monkeypatch.setenv("NO_PROXY", "")
            ask(server.url, Link(proxy=""))
            assert len(server.requests) == 1
            assert len(proxy.requests) == 1


def test_proxy_that_is_not_there() -> None:
    """A dead proxy is CloudUnavailable, and its password is not told."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(CloudUnavailable) as caught:
        ask("http://provider.invalid/v1", Link(proxy=f"http://me:secret@127.0.0.1:{port}"))
    assert "secret" not in str(caught.value)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    """A file that is not there or no certificate is an error with its name, and nothing is sent."""
    (tmp_path / "odd.pem").write_text("hello")
    for link in (Link(ca_file=tmp_path / "no.pem"), Link(client_cert=tmp_path / "odd.pem")):
        with pytest.raises(CloudProtocol, match=r"(no|odd)\.pem") as caught:
            ask("https://127.0.0.1:1/v1", link)
        assert caught.value.sends == 0


def test_bad_links() -> None:
    """What cannot work is refused at once, without the password."""
    with pytest.raises(ConfigError) as caught:
        Link(proxy="me:secret@proxy:3128")
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError):
        Link(client_key="client.key")
