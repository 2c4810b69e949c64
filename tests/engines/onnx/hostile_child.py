"""Run with the folder and two numbers: open it with so many kinds of damage, and tell the ends."""

import random
import sys
from collections import Counter
from pathlib import Path

from edgeai.engines import DevicePlan
from edgeai.engines.onnx import open_engine
from edgeai.errors import EngineError, ModelError
from edgeai.types import Message, Request

PROMPT = Request(messages=(Message("user", "Hi there"),), max_tokens=3)


def main(folder: Path, first: int, last: int) -> None:
    """Print the endings; any other error than ours ends it."""
    path = folder / "model.onnx"
    sound = path.read_bytes()
    endings: Counter[str] = Counter()
    for seed in range(first, last):
        path.write_bytes(damaged(sound, random.Random(seed)))
        try:
            engine = open_engine(folder, DevicePlan(n_ctx=64, n_threads=1), name="damaged")
            try:
                list(engine.stream(PROMPT))
            finally:
                engine.close()
            endings["ran"] += 1
        except (EngineError, ModelError) as error:
            endings[type(error).__name__] += 1
        except BaseException:
            sys.stderr.write(f"seed {seed}\n")
            raise
    sys.stdout.write(f"{dict(endings)}\n")


def damaged(sound: bytes, dice: random.Random) -> bytes:
    """A few bytes changed."""
    changed = bytearray(sound)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(changed))
        changed[at] = dice.choice([dice.randrange(256), changed[at] ^ 1 << dice.randrange(8), 0xFF, 0])
    return bytes(changed)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
