"""Run as ``python -m tests.models.hostile_child TINY FIRST LAST``: open damaged copies, one a seed.

Writes one line a seed, before and after, so that the parent knows which one ended this process.
"""

import sys
import time
from pathlib import Path

from edgeai.engines.llamacpp.vet import probe
from edgeai.errors import EdgeError
from edgeai.models.gguf import read_header
from tests.models.mutations import mutate


def judge(path: Path) -> str:
    """How opening the file ended: a kind of error, or ``loaded``."""
    try:
        read_header(path)
    except EdgeError as error:
        return f"header:{type(error).__name__}"
    try:
        probe(path)
    except EdgeError as error:
        return f"native:{type(error).__name__}:{error}"
    return "loaded"


def main(tiny: Path, first: int, last: int) -> None:
    """Judge the seeds from ``first`` up to ``last``, excluded."""
    original = tiny.read_bytes()
    header_size = read_header(tiny).tensors[0].offset
    damaged = tiny.with_name("damaged.gguf")
    for seed in range(first, last):
        damaged.write_bytes(mutate(original, header_size, seed))
        sys.stdout.write(f"start {seed}\n")
        sys.stdout.flush()
        started = time.perf_counter()
        verdict = " ".join(judge(damaged).split())
        sys.stdout.write(f"end {seed} {time.perf_counter() - started:.3f} {verdict}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
