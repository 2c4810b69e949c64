"""Running the command line: in this process, in a child, and in a child on a terminal."""

import codecs
import contextlib
import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgeai.cli import main

EDGEAI = [sys.executable, "-m", "edgeai"]


@dataclass(frozen=True)
class Outcome:
    """How one run ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a verb in this process; ``stdin`` is what is piped into it."""

    def call(*args: str, stdin: str = "") -> Outcome:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(args)
        text = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), text.out, text.err)

    return call


class Terminal:
    """A child process on a pseudo terminal of 80 × 24."""

    def __init__(self, args: list[str]) -> None:
        self._end, theirs = pty.openpty()
        environment = os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24", "NO_COLOR": ""}
        self.process = subprocess.Popen(
            [*EDGEAI, *args], stdin=theirs, stdout=theirs, stderr=theirs, env=environment, close_fds=True
        )
        os.close(theirs)
        self._seen = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write(self, text: str) -> None:
        """Type."""
        os.write(self._end, text.encode())

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def interrupt_until(self, pattern: str) -> str:
        """Press Ctrl-C until the pattern appears: readline overlooks one that comes as it begins to wait."""
        for _ in range(20):
            self.interrupt()
            with contextlib.suppress(AssertionError):
                return self.wait_for(pattern, limit_s=2)
        raise AssertionError(f"no {pattern!r} after 20 times Ctrl-C")

    def wait_for(self, pattern: str, limit_s: float = 60) -> str:
        """Read until the pattern appears; what came before its end, without what was read earlier."""
        end = time.monotonic() + limit_s
        while not (found := re.search(pattern, self._seen)):
            assert time.monotonic() < end, f"no {pattern!r} in {self._seen!r}"
            if select.select([self._end], [], [], 0.2)[0]:
                self._seen += self._read()
        text, self._seen = self._seen[: found.end()], self._seen[found.end() :]
        return text

    def _read(self) -> str:
        try:
            return self._decoder.decode(os.read(self._end, 65536))
        except OSError as error:  # Linux says so when the child has gone
            raise AssertionError(f"the child ended after {self._seen!r}") from error

    def close(self) -> None:
        """End the child."""
        self.process.kill()
        self.process.wait(10)
        os.close(self._end)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    """Start a verb on a terminal."""
    started: list[Terminal] = []

    def start(*args: str) -> Terminal:
        started.append(Terminal(list(args)))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture
def home(_home: Path) -> Path:
    """This test's EDGEAI_HOME."""
    return _home


@pytest.fixture
def model(model_path: Path, home: Path) -> Path:
    """The default model, installed in this test's home."""
    return model_path
