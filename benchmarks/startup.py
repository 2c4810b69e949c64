"""What a program pays before its first token; each a fresh process, the time of an empty interpreter taken
off where it says so. Medians.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

from benchmarks.table import Row, below, interleaved, plain
from edgeai.prepare import prepare

FIRST_TOKEN = """
from edgeai import Edge
with Edge("smollm2-135m-instruct", engine={!r}, ledger=False) as edge:
    next(edge.stream("Name the chemical symbol for gold."))
"""
ROUNDS = 9


def measure() -> list[Row]:
    """The rows of the table."""
    prepare("smollm2-135m-instruct")
    figures = interleaved(
        {
            "nothing": process("-c", "pass"),
            "import": process("-c", "import edgeai"),
            "names": process("-c", "from edgeai import Edge, Policy"),
            "help": process("-c", "from edgeai.cli import main; main()", "--help"),
            "onnx": process("-c", FIRST_TOKEN.format("onnx")),
            "llamacpp": process("-c", FIRST_TOKEN.format("llamacpp")),
        },
        rounds=ROUNDS,
    )
    empty = median(figures["nothing"])
    return [
        below(
            "import edgeai, without the interpreter's own start", median(figures["import"]) - empty, 80, "ms"
        ),
        plain("from edgeai import Edge, Policy, likewise", median(figures["names"]) - empty, "ms"),
        below("edgeai --help, whole process", median(figures["help"]), 250, "ms"),
        plain("process start to first token, onnx", median(figures["onnx"]), "ms"),
        plain("process start to first token, llamacpp", median(figures["llamacpp"]), "ms"),
        plain("an empty interpreter", empty, "ms"),
    ]


def process(*arguments: str) -> Callable[[], float]:
    """How to run this and time it, in milliseconds."""

    def run() -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        return (time.perf_counter() - started) * 1e3

    return run
