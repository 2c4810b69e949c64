"""Shops where the tests' tiny model can be had: a wheel, a package index, a plain server, a hub.

The server is Starlette's, with its own Range support; it can be told to stop in the middle of a file, and
remembers what it was asked for.
"""

import asyncio
import hashlib
import socket
import threading
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from edgeai.paths import config_dir
from tests.tiny_gguf import write_tiny_gguf

TINY = "tiny@llamacpp-f32"
MEMBER = "tiny_model/tiny.gguf"


@dataclass
class Shop:
    """A server of the files in ``folder``. With ``stall`` set, the next file stops after its first half."""

    folder: Path
    url: str = ""
    stall: bool = False
    half_sent: threading.Event = field(default_factory=threading.Event)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """Paths of the files asked for with GET, and the range."""

    async def file(self, request: Request) -> Response:
        """A file of the folder, under any address that ends in its name."""
        path = self.folder / request.url.path.rpartition("/")[2]
        if request.method == "GET":
            self.asked.append((path.name, request.headers.get("range")))
        if not path.exists():
            return Response(status_code=404)
        if self.stall and request.method == "GET":
            self.stall = False
            return StreamingResponse(self._half(path), headers={"content-length": str(path.stat().st_size)})
        return FileResponse(path, headers={"x-repo-commit": "c0ffee" * 6 + "c0de"})

    async def _half(self, path: Path) -> AsyncIterator[bytes]:
        data = path.read_bytes()
        yield data[: len(data) // 2]
        await asyncio.sleep(0.05)  # let it leave
        self.half_sent.set()
        await asyncio.sleep(60)  # until the other side hangs up

    async def index(self, request: Request) -> Response:
        """The simple index of one project: all wheels of the folder."""
        links = [f'<a href="/files/{path.name}">{path.name}</a>' for path in self.folder.glob("*.whl")]
        return HTMLResponse("<!DOCTYPE html><html><body>" + "".join(links) + "</body></html>")


@contextmanager
def open_shop(folder: Path) -> Iterator[Shop]:
    """Serve the files of ``folder`` on 127.0.0.1."""
    shop = Shop(folder)
    routes = [Route("/simple/{name}/", shop.index), Route("/{path:path}", shop.file)]
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        Starlette(routes=routes), log_level="critical", lifespan="off", timeout_graceful_shutdown=0
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    shop.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield shop
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def tiny_model(folder: Path) -> Path:
    """``tiny.gguf`` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    return write_tiny_gguf(folder / "tiny.gguf")


def wheel_of(model: Path, folder: Path, version: str = "1.0") -> Path:
    """A wheel ``tiny-model`` with the file in it, as a publisher would build one."""
    wheel = folder / f"tiny_model-{version}-py3-none-any.whl"
    info = f"tiny_model-{version}.dist-info"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as archive:
        archive.write(model, MEMBER)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-model\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def list_tiny(model: Path, *sources: dict[str, str], sha256: str | None = None) -> None:
    """Write the user's own catalog, with the tiny model and these sources."""
    rows = [
        f'[[package]]\nid = "{TINY}"\nfile = "tiny.gguf"\nparameters = 91136\ncontext = 512',
        'licence = "Apache-2.0"',
        f'sha256 = "{sha256 or hashlib.sha256(model.read_bytes()).hexdigest()}"',
        f"size = {model.stat().st_size}",
    ]
    for source in sources:
        rows += ["[[package.source]]", *(f'{key} = "{value}"' for key, value in source.items())]
    config_dir().mkdir(parents=True, exist_ok=True)
    (config_dir() / "catalog.toml").write_text("\n".join(rows), "utf-8")


def from_url(shop: Shop, name: str = "tiny.gguf") -> dict[str, str]:
    """The source entry for a file of the shop."""
    return {"kind": "url", "url": f"{shop.url}/files/{name}"}


def from_pypi(version: str = "1.0") -> dict[str, str]:
    """The source entry for the wheel of `wheel_of`."""
    return {"kind": "pypi", "package": "tiny-model", "version": version, "member": MEMBER}
