"""A child process in which something is tried that may crash, hang, or lie."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, Any, Literal

__all__ = ["Ended", "Failure", "run_child"]

Failure = Literal["crashed", "timed out"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a child ended: its report, or the state that stands for not having one.

    A report that calls itself ``unfinished`` stands if the child fails at what was to come after it; ``why``
    says so.
    """

    report: Mapping[str, Any] = field(default_factory=dict)
    failure: Failure | None = None
    why: str | None = None


def run_child(command: Sequence[str], limit_s: float) -> Ended:
    """Files take what it prints: a pipe would stay open with whatever the child has started.

    It runs in an empty folder: some providers leave files in the one they are in.
    """
    with (
        TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        TemporaryFile() as out,
        TemporaryFile() as err,
    ):
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=folder,
            env=os.environ
            | {"ORT_DISABLE_TELEMETRY": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )
        failure: Failure | None = None
        why = None
        try:
            code = child.wait(limit_s)
        except subprocess.TimeoutExpired:
            failure, why = "timed out", f"It did not end within {limit_s:g} s"
        else:
            if code != 0:
                failure, why = "crashed", f"{_cause(code)}: {_last_words(err)}"
        finally:
            _end(child)
        report = _report(out)
    if report is not None and (failure is None or "unfinished" in report):
        return Ended(report=report, why=why)
    return Ended(failure=failure or "crashed", why=why or "It ended without a report")


def _report(out: IO[bytes]) -> Mapping[str, Any] | None:
    """The last whole line, where it is an object of JSON."""
    out.seek(0)
    lines = out.read().splitlines() or [b""]
    with suppress(ValueError):
        report = json.loads(lines[-1])
        if isinstance(report, dict):
            return report
    return None


def _last_words(err: IO[bytes]) -> str:
    err.seek(0)
    said = err.read().decode("utf-8", "replace").strip().splitlines()
    return said[-1][:300] if said else "silent"


def _cause(code: int) -> str:
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"exit code {code}"


def _end(child: "subprocess.Popen[bytes]") -> None:
    """End it with all it has started."""
    with suppress(ProcessLookupError, PermissionError):
        if sys.platform == "win32":
            child.kill()
        else:
            os.killpg(child.pid, signal.SIGKILL)
    child.wait()
