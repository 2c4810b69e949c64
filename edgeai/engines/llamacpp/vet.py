"""Run as ``python -m edgeai.engines.llamacpp.vet FILE``: does llama.cpp survive this file?

It loads the model and evaluates a few tokens. The answer is how this process ends: 0 if all went well,
`REFUSED` if llama.cpp said no in good order, anything else if the file broke it. `edgeai.models.vet` asks.
"""

import sys
from pathlib import Path

from edgeai.engines import DevicePlan
from edgeai.engines.llamacpp import open_engine
from edgeai.errors import EdgeError

__all__ = ["REFUSED", "probe"]

REFUSED = 10


def probe(path: Path) -> None:
    """Load, evaluate, free. Raises ModelError's and EngineError's leaves, if it returns at all."""
    engine = open_engine(path, DevicePlan(n_ctx=64, n_threads=1), name=path.stem)
    try:
        engine.score("Hello,\n", [" world"])
    finally:
        engine.close()


if __name__ == "__main__":
    try:
        probe(Path(sys.argv[1]))
    except EdgeError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(REFUSED)
