"""Servers for tests, on free ports of the loopback interface.

`katan` and `llama_server` are other people's, each in a child process. `scripted` is ours and hostile: a
function writes the raw bytes of every answer.
"""

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

Script = Callable[[socket.socket, bytes], None]


@dataclass
class Scripted:
    """A running scripted server: its address, the requests it got, and how many connections it accepted."""

    url: str
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0


@contextmanager
def scripted(script: Script) -> Iterator[Scripted]:
    """Serve ``script(connection, request)`` for every request; the connection ends when it returns."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = Scripted(f"http://127.0.0.1:{listener.getsockname()[1]}")
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(20)
            request = read_request(connection)
            if request:
                server.requests.append(request)
                script(connection, request)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                server.connections += 1
                threads.append(threading.Thread(target=serve, args=(connection,), daemon=True))
                threads[-1].start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield server
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join(5)
        for thread in threads:
            thread.join(5)


def read_request(connection: socket.socket) -> bytes:
    """One HTTP request, head and body; empty when the peer closed."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := connection.recv(65536)):
            return b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(header(head, "content-length") or 0)
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def header(request: bytes, name: str) -> str:
    """A header's value in a raw request; empty when it is not there."""
    for line in request.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]:
        key, _, value = line.decode("latin-1").partition(":")
        if key.lower() == name:
            return value.strip()
    return ""


def answer(status: str, body: bytes = b"", **headers: str) -> bytes:
    """A whole HTTP answer; ``content_type="…"`` becomes the header content-type."""
    fields = {"content-length": str(len(body)), "connection": "close"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


@dataclass
class Child:
    """A server in a child process. ``url`` is its API's base, ``kill`` ends it without a goodbye."""

    url: str
    process: "subprocess.Popen[bytes]"

    def kill(self) -> None:
        """End the process at once; connections are reset."""
        self.process.kill()
        self.process.wait(10)


@contextmanager
def katan(*options: str) -> Iterator[Child]:
    """llm-katan's echo server in OpenAI's wire format; options as on its command line."""
    fixed = ["--model", "echo", "--backend", "echo", "--disable-dashboard", "--stats-file", ""]
    command = [sys.executable, "-c", "from llm_katan.cli import main; main()", *fixed, *options]
    with _child([*command, "--host", "127.0.0.1"], ready="/health") as server:
        yield server


@contextmanager
def llama_server(model: Path, *options: str) -> Iterator[Child]:
    """llama-cpp-python's server with a real model; options as on its command line."""
    fixed = ["--model", str(model), "--n_ctx", "1024", "--n_threads", "1", "--verbose", "false"]
    command = [sys.executable, "-m", "llama_cpp.server", *fixed, *options]
    with _child([*command, "--host", "127.0.0.1"], ready="/v1/models") as server:
        yield server


@contextmanager
def _child(command: list[str], *, ready: str) -> Iterator[Child]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with tempfile.TemporaryFile() as log:
        environment = {name: value for name, value in os.environ.items() if name not in ("HOST", "PORT")}
        process = subprocess.Popen([*command, "--port", str(port)], stdout=log, stderr=log, env=environment)
        try:
            _wait_until_ready(f"http://127.0.0.1:{port}{ready}", process)
            yield Child(f"http://127.0.0.1:{port}/v1", process)
        except TimeoutError as error:
            log.seek(0)
            raise RuntimeError(f"The server did not start: {log.read().decode(errors='replace')}") from error
        finally:
            process.kill()
            process.wait(10)


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]", limit_s: float = 60) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + limit_s
    while process.poll() is None and time.monotonic() < end:
        with suppress(OSError), direct.open(url, timeout=5):
            return
        time.sleep(0.05)
    raise TimeoutError
