"""Nothing phones home, nothing is printed, and nobody is kept waiting at the end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeai.engines.onnx import open_engine
from edgeai.errors import MissingExtra
from edgeai.types import Message, Request
from tests.engines.onnx.conftest import tiny_plan

PROGRAM = """
import sys
from pathlib import Path
from edgeai.engines import DevicePlan
from edgeai.engines.onnx import open_engine
from edgeai.types import Message, Request
engine = open_engine(Path(sys.argv[1]), DevicePlan(n_ctx=256, n_threads=2), name="m")
generation = engine.stream(Request(messages=(Message("user", "Write a long story."),), max_tokens=200))
next(generation)
"""
WATCH = """
import time, psutil
list(generation)
time.sleep(0.5)  # a reporter would have come by now
process = psutil.Process()
print([c for c in process.net_connections("all") if c.raddr or c.laddr])
opened = [file.path for file in process.open_files()]
print([path for path in opened if "nnxruntime" in path and "site-packages" not in path])
print(process.num_threads())
"""


def run(code: str, *args: object, home: Path) -> subprocess.CompletedProcess[bytes]:
    """A fresh process in a fresh home folder, in which nobody has set a switch."""
    home.mkdir()
    kept = {
        key: value for key, value in os.environ.items() if "TELEMETRY" not in key and key != "DO_NOT_TRACK"
    }
    for key in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "EDGEAI_HOME"):
        kept.pop(key, None)
    kept |= {"HOME": str(home), "USERPROFILE": str(home), "TMPDIR": str(home), "LOCALAPPDATA": str(home)}
    kept |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # numpy's own threads are not in question
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], capture_output=True, timeout=60, check=False, env=kept
    )


def test_nothing_phones_home(tiny: Path, tmp_path: Path) -> None:
    """A session in a fresh process and home opens no socket, leaves no file, starts no reporter."""
    home = tmp_path / "home"
    done = run(PROGRAM + WATCH, tiny, home=home)
    assert (done.returncode, done.stderr) == (0, b"")
    connections, files, threads = done.stdout.decode().splitlines()
    assert (connections, files) == ("[]", "[]")
    assert int(threads) <= 3  # Python's, the engine's, and one for computing
    assert [path for path in home.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("ending", ["", "del engine, generation; import gc; gc.collect()", "engine.close()"])
def test_an_interpreter_that_ends_midway_ends_cleanly(tiny: Path, tmp_path: Path, ending: str) -> None:
    """Without close, after del, after close: exit code 0, in time, and nothing on stdout and stderr."""
    done = run(PROGRAM + ending, tiny, home=tmp_path / "home")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_loading_and_answering_is_silent(tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither ONNX Runtime nor we write to stdout or stderr, also when a run is stopped."""
    engine = open_engine(tiny, tiny_plan(), name="m")
    for _ in range(3):
        with engine.stream(Request(messages=(Message("user", "Hi " * 50),), max_tokens=100)) as generation:
            next(generation)
    list(engine.stream(Request(messages=(Message("user", "Hi"),), max_tokens=2)))
    engine.close()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("library", ["onnxruntime", "tokenizers"])
def test_a_missing_library_names_the_extra(tiny: Path, tmp_path: Path, library: str) -> None:
    """Without the extra the error says how to install it; importing the package needs nothing."""
    code = f"import sys; sys.modules[{library!r}] = None\n" + PROGRAM
    done = run(code, tiny, home=tmp_path / "home")
    assert done.returncode == 1
    assert MissingExtra.__name__.encode() in done.stderr
    assert b'pip install "edgeai[onnx]"' in done.stderr
