"""Memory that is not there is a typed error, and leaves nothing behind. In processes with a real limit."""

import subprocess
import sys
from pathlib import Path

import pytest

from edgeai import Edge, OutOfMemory
from edgeai.engines.llamacpp.context import Context
from tests.engines.process.conftest import children
from tests.tiny_gguf import write_tiny_gguf

linux = pytest.mark.skipif(sys.platform != "linux", reason="address space is bounded on Linux only")

LIMITED = """
import gc, resource, sys, threading
from pathlib import Path
from edgeai import Edge, OutOfMemory

tiny, model, n_ctx, room = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])


def size(column):
    return int(Path("/proc/self/statm").read_text().split()[column]) * resource.getpagesize()


def says():
    with Edge(tiny, n_ctx=256, ledger=False, isolation="thread", threads=1) as edge:
        return edge.ask("Hi", max_tokens=8).text


def refused():
    try:
        Edge(model, n_ctx=n_ctx, allow_large=True, ledger=False, isolation="thread", threads=1)
    except OutOfMemory as error:
        assert error.remedy and error.why, error
        return
    raise SystemExit("it found room")


before = says()
resource.setrlimit(resource.RLIMIT_AS, (size(0) + room, -1))
refused()
assert says() == before
for _ in range(4):  # the allocator keeps some of it the first times
    refused()
mapped, resident, threads = size(0), size(1), threading.active_count()
for _ in range(5):
    refused()
gc.collect()
assert size(0) - mapped < 4 << 20, "address space grows"
assert size(1) - resident < 4 << 20, "memory grows"
assert threading.active_count() == threads
assert says() == before
"""


def limited(tiny: Path, model: Path, *, n_ctx: int, room: int) -> None:
    arguments = [sys.executable, "-c", LIMITED, str(tiny), str(model), str(n_ctx), str(room)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def vast(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model for contexts of two million tokens, whose cache takes 512 MB."""
    return write_tiny_gguf(tmp_path_factory.mktemp("vast") / "vast.gguf", n_ctx=2 << 20)


@linux
@pytest.mark.parametrize(
    "room",
    [
        pytest.param(40 << 20, id="cells"),
        pytest.param(200 << 20, id="cache", marks=pytest.mark.soak),
        pytest.param(700 << 20, id="buffers", marks=pytest.mark.soak),
    ],
)
def test_a_context_that_finds_no_room(vast: Path, room: int) -> None:
    """llama.cpp's allocation fails; a smaller context goes on as before, and nothing leaks."""
    limited(vast, vast, n_ctx=2 << 20, room=room)


@linux
def test_weights_that_cannot_be_mapped(vast: Path, model_path: Path) -> None:
    """As for the cache: the file has 98 MB."""
    limited(vast, model_path, n_ctx=256, room=60 << 20)


@linux
def test_a_process_that_finds_no_room(vast: Path) -> None:
    """The same error comes over the pipe, and the process is gone."""
    before = children()
    with pytest.raises(OutOfMemory) as caught:
        Edge(
            vast,
            n_ctx=2 << 20,
            allow_large=True,
            ledger=False,
            isolation="process",
            isolation_memory_bytes=300 << 20,
        )
    assert caught.value.remedy
    assert children() == before


def test_a_decode_that_finds_no_room() -> None:
    """llama.cpp says so by a number."""
    error = Context.failure(None, -2)  # type: ignore[arg-type]  # it needs no context
    assert isinstance(error, OutOfMemory)
    assert not isinstance(Context.failure(None, -3), OutOfMemory)  # type: ignore[arg-type]  # as above
