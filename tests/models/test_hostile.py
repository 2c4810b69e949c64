"""A thousand damaged headers, opened for real in a child process."""

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeai.models.gguf import read_header
from tests.models.mutations import mutate
from tests.tiny_gguf import write_tiny_gguf

Record = Callable[[str, object], None]
SEEDS = 1000
SLOWEST_S = 5.0
REPOSITORY = Path(__file__).parents[2]


def run_child(tiny: Path, first: int) -> tuple[int, list[list[str]]]:
    """How the child ended, and what it said; it is ended if it says nothing more for a while."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.models.hostile_child", str(tiny), str(first), str(SEEDS)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    lines: list[list[str]] = []
    assert child.stdout is not None
    with child:
        watchdog = None
        for line in child.stdout:
            if watchdog:
                watchdog.cancel()
            watchdog = threading.Timer(4 * SLOWEST_S, child.kill)
            watchdog.start()
            lines.append(line.strip().split(maxsplit=3))
        if watchdog:
            watchdog.cancel()
    return child.returncode, lines


@pytest.mark.parametrize("architecture", ["llama", "gemma"])
def test_a_thousand_damaged_headers_harm_nobody(
    architecture: str, tmp_path: Path, record_property: Record
) -> None:
    """Each ends in a typed error or loads, in time; native code never crashes, not even the child."""
    tiny = write_tiny_gguf(tmp_path / "tiny.gguf", architecture=architecture)
    verdicts: dict[int, str] = {}
    crashed: list[int] = []
    seconds: list[float] = []
    first = 0
    while first < SEEDS:
        status, lines = run_child(tiny, first)
        for line in lines:
            if line[0] == "end":
                verdicts[int(line[1])] = line[3]
                seconds.append(float(line[2]))
        assert status != 1, "the child's own program failed"
        if status == 0:
            break
        crashed.append(int(lines[-1][1]))
        first = crashed[-1] + 1
    kinds = Counter(":".join(verdict.split(":")[:2]) for verdict in verdicts.values())
    record_property("verdicts", dict(kinds))
    record_property("crashed", crashed)
    assert len(verdicts) + len(crashed) == SEEDS
    assert crashed == []
    assert max(seconds) < SLOWEST_S
    assert kinds["loaded"] > 20, "some damage is harmless, so that native code really is reached"
    assert kinds["header:ModelCorrupt"] > SEEDS / 2


def test_seeds_damage_the_same_way_each_time(tiny: Path) -> None:
    """A seed that crashes something can be looked at again."""
    original = tiny.read_bytes()
    size = read_header(tiny).tensors[0].offset
    assert [mutate(original, size, seed) for seed in range(20)] == [
        mutate(original, size, seed) for seed in range(20)
    ]
    assert len({mutate(original, size, seed) for seed in range(20)}) == 20
