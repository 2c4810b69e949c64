"""Converts a model in several ways, in a process of its own: ``SOURCE FOLDER TO:QUANT[:NPU] …``.

Sets of strings have another order in each process: what is the same twice in one may differ in two.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeai.converters.gates import Gates
from edgeai.converters.proof import Trial
from edgeai.converters.toolchain import convert
from edgeai.models.disk import hash_file

__all__ = ["assert_the_same_twice"]

LOOSE = Gates(max_kl=50.0, min_agreement=0.0)


def assert_the_same_twice(source: Path, folder: Path, ways: Sequence[str]) -> None:
    """All files but the proof's, in two processes."""
    made = [_make(source, folder / seed, ways, seed) for seed in ("1", "2")]
    for way in ways:
        one, other = (_hashes(each / way.replace(":", "-")) for each in made)
        assert len(one) > 1
        assert one == other, way


def _make(source: Path, folder: Path, ways: Sequence[str], seed: str) -> Path:
    env = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "tests.converters.make_all", str(source), str(folder), *ways]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def _hashes(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "proof.json")
    return {path.relative_to(folder).as_posix(): hash_file(path) for path in files}


def _convert(source: Path, folder: Path, ways: Sequence[str]) -> None:
    test = Trial(tokens=96, window=96, speed=False)
    for way in ways:
        words: list[Any] = [word or None for word in (*way.split(":"), "", "")]
        to, quant, npu = words[:3]
        gates = Gates() if source.is_dir() and quant is None else LOOSE  # encoders have others
        convert(
            source,
            folder / way.replace(":", "-"),
            to=to,
            quant=quant,
            npu=npu,
            gates=gates,
            test=test,
        )


if __name__ == "__main__":
    _convert(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
