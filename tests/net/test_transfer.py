import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest

from edgeai.errors import DiskFull, DownloadFailed
from edgeai.net import Retry, Timeouts, download
from tests.servers import answer, header, scripted

DATA = bytes(range(256)) * 800
QUICK = Timeouts(connect_s=2, first_token_s=2, between_s=0.3, total_s=5)
PLAIN = "http://example.invalid/f"
SOON = Retry(attempts=3, backoff_s=0.01)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[str]:
    """The address of a file on the standard library's server, which ignores Range."""
    folder = tmp_path / "www"
    folder.mkdir()
    (folder / "file").write_bytes(DATA)
    with ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: _Quiet(*args, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/file"
        server.shutdown()
        thread.join()


def send_range(connection: socket.socket, request: bytes, data: bytes = DATA, cut: int | None = None) -> None:
    """Answer as a server that knows Range does; close after ``cut`` bytes of the body."""
    asked = re.fullmatch(r"bytes=(\d+)-", header(request, "range"))
    start = int(asked[1]) if asked else 0
    if start >= len(data):
        connection.sendall(answer("416 Range Not Satisfiable", content_range=f"bytes */{len(data)}"))
        return
    body = data[start:]
    span = f"bytes {start}-{len(data) - 1}/{len(data)}"
    head = answer("206 Partial Content" if asked else "200 OK", content_length=str(len(body)), etag='"v1"')
    if asked:
        head = head.replace(b"\r\n\r\n", f"\r\ncontent-range: {span}\r\n\r\n".encode())
    connection.sendall(head + body[:cut])


def test_whole_file_with_progress(plain: str, tmp_path: Path) -> None:
    """A file arrives byte for byte, and progress rises from 0 to the announced size."""
    seen: list[tuple[int, int | None]] = []
    download(plain, tmp_path / "f", on_progress=lambda done, total: seen.append((done, total)))
    assert (tmp_path / "f").read_bytes() == DATA
    assert seen[0] == (0, len(DATA))
    assert seen[-1] == (len(DATA), len(DATA))
    assert seen == sorted(seen)


def test_server_that_ignores_range(plain: str, tmp_path: Path) -> None:
    """A server that answers 200 to a Range makes the download begin anew, not append."""
    (tmp_path / "f").write_bytes(b"x" * 1000)
    download(plain, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == DATA


def test_resume_asks_for_the_rest_only(tmp_path: Path) -> None:
    """What is there already is not fetched again."""
    (tmp_path / "f").write_bytes(DATA[:150_000])
    with scripted(send_range) as server:
        download(server.url, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == DATA
    assert [header(r, "range") for r in server.requests] == ["bytes=150000-"]


def test_broken_connections_are_taken_up(tmp_path: Path) -> None:
    """A connection that breaks again and again is resumed as long as each try makes progress."""
    with scripted(lambda c, r: send_range(c, r, cut=30_000)) as server:
        download(server.url, tmp_path / "f", timeouts=QUICK, retry=SOON)
    assert (tmp_path / "f").read_bytes() == DATA
    assert len(server.requests) == -(-len(DATA) // 30_000)
    assert header(server.requests[1], "if-range") == '"v1"'


def test_complete_file_is_left_alone(tmp_path: Path) -> None:
    """416 with our own length means that everything is there."""
    (tmp_path / "f").write_bytes(DATA)
    with scripted(send_range) as server:
        download(server.url, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == DATA


def test_source_became_shorter(tmp_path: Path) -> None:
    """416 with another length: what was fetched belongs to another file, and all is fetched again."""
    (tmp_path / "f").write_bytes(b"x" * (len(DATA) + 5))
    with scripted(send_range) as server:
        download(server.url, tmp_path / "f", retry=SOON)
    assert (tmp_path / "f").read_bytes() == DATA


def test_source_changed_its_length_between_tries(tmp_path: Path) -> None:
    """Two versions are never glued together when the length changes after a break."""
    other = DATA[::-1] + b"more"

    def change(connection: socket.socket, request: bytes) -> None:
        first = len(server.requests) == 1
        send_range(connection, request, DATA if first else other, cut=50_000 if first else None)

    with scripted(change) as server:
        download(server.url, tmp_path / "f", retry=SOON)
    assert (tmp_path / "f").read_bytes() == other


def test_wrong_part(tmp_path: Path) -> None:
    """A 206 for another part than was asked for is not appended."""

    def shifted(connection: socket.socket, request: bytes) -> None:
        if header(request, "range"):
            span = f"bytes 10-{len(DATA) - 1}/{len(DATA)}"
            connection.sendall(answer("206 Partial Content", DATA[10:], content_range=span))
        else:
            send_range(connection, request)

    (tmp_path / "f").write_bytes(DATA[:1000])
    with scripted(shifted) as server:
        download(server.url, tmp_path / "f", retry=SOON)
    assert (tmp_path / "f").read_bytes() == DATA


@pytest.mark.parametrize(
    ("reply", "told", "tries"),
    [
        (answer("404 Not Found", b"no such file"), "HTTP 404", 1),
        (answer("503 Busy"), "HTTP 503", 3),
        (answer("200 OK", b"<html>", content_type="text/html; charset=utf-8"), "web page", 1),
        (answer("200 OK", b"abc", content_encoding="gzip"), "encoded", 1),
        (answer("302 Found", location="http://127.0.0.1:9/"), "Cannot connect", 3),
        (answer("302 Found", location="ftp://127.0.0.1/x"), "not an address", 1),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "broke", 3),
        (b"", "broke", 3),
    ],
)
def test_refusals(reply: bytes, told: str, tries: int, tmp_path: Path) -> None:
    """Every failure is a DownloadFailed that says why, only what may pass is tried again, the part stays."""
    (tmp_path / "f").write_bytes(b"part")
    with scripted(lambda c, r: c.sendall(reply)) as server, pytest.raises(DownloadFailed, match=told):
        download(server.url, tmp_path / "f", timeouts=QUICK, retry=SOON)
    assert (tmp_path / "f").read_bytes() == b"part"
    assert len(server.requests) == tries


def test_redirect_to_plain_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An https address that leads to http gives no file: anyone on the way could have changed it."""

    def serve(request: httpx.Request) -> httpx.Response:
        plain = request.url.scheme == "http"
        return (
            httpx.Response(200, content=b"x") if plain else httpx.Response(302, headers={"location": PLAIN})
        )

    client = httpx.Client(transport=httpx.MockTransport(serve), follow_redirects=True)
    monkeypatch.setattr("edgeai.net.transfer._client", lambda timeouts: client)
    with pytest.raises(DownloadFailed, match="without encryption"):
        download("https://example.invalid/f", tmp_path / "f")
    assert not (tmp_path / "f").exists()


def test_silence_ends_in_time(tmp_path: Path) -> None:
    """A server that stops sending is given up after between_s, tries included."""

    def stall(connection: socket.socket, request: bytes) -> None:
        connection.sendall(answer("200 OK", content_length="9"))
        connection.recv(1)  # until the client closes

    with scripted(stall) as server, pytest.raises(DownloadFailed, match="between_s"):
        download(server.url, tmp_path / "f", timeouts=QUICK, retry=Retry(attempts=1))


def test_too_large(tmp_path: Path) -> None:
    """A source that gives more than the expected size is cut off, and its bytes are not kept."""
    head = answer("200 OK").replace(b"content-length: 0\r\n", b"")
    with (
        scripted(lambda c, r: c.sendall(head + DATA)) as server,
        pytest.raises(DownloadFailed, match="larger"),
    ):
        download(server.url, tmp_path / "f", size=1000)
    assert not (tmp_path / "f").exists()


def test_secrets_of_a_url_are_not_told(tmp_path: Path) -> None:
    """Password and query of a URL are in no message."""
    with pytest.raises(DownloadFailed) as caught:
        download("http://me:secret1@127.0.0.1:9/f?sig=secret2", tmp_path / "f", retry=Retry(attempts=1))
    assert "secret" not in str(caught.value)
    assert "http://127.0.0.1:9/f" in str(caught.value)


def test_unwritable_target(plain: str, tmp_path: Path) -> None:
    """A target that cannot be written is the disk's fault, not the network's."""
    with pytest.raises(DiskFull, match="Cannot write"):
        download(plain, tmp_path / "nowhere" / "f")
    if Path("/dev/full").exists():
        with pytest.raises(DiskFull, match="No space left"):
            download(plain, Path("/dev/full"))


def test_import_loads_no_http_library() -> None:
    """Importing the network part costs nothing until it is used."""
    code = "import sys, edgeai.net; print({'httpx', 'genai_prices'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
