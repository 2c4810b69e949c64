"""Warm starts: the first token after a restart, with a system prompt of about 1,500 tokens; each a fresh
process, the time from the question to its first token. Medians.
"""

import subprocess
import sys
from collections.abc import Callable

from benchmarks.table import Row, at_least, interleaved, plain
from edgeai.models import prefixes
from edgeai.prepare import prepare

ASK = """
import time
from edgeai import Edge
SYSTEM = "You are a museum guide. " + "The north wing shows lamps and clocks of the year 1851. " * 110
with Edge("smollm2-135m-instruct", engine={engine!r}, ledger=False) as edge:
    edge.ask("Hello.", max_tokens=2)
    if {warm!r}:
        edge.warm(SYSTEM)
    else:
        started = time.perf_counter()
        chat = edge.chat(SYSTEM)
        next(chat.stream("Where are the clocks?"))
        print((time.perf_counter() - started) * 1e3)
"""
ROUNDS = 3
LEAST = 10


def measure() -> list[Row]:
    """The rows of the table."""
    prepare("smollm2-135m-instruct")
    rows = []
    for engine in ("llamacpp", "onnx"):
        prefixes.clear()
        cold = interleaved({"cold": asking(engine)}, rounds=ROUNDS, warm_up=0)["cold"]
        subprocess.run([sys.executable, "-c", ASK.format(engine=engine, warm=True)], check=True)
        warm = interleaved({"warm": asking(engine)}, rounds=ROUNDS, warm_up=0)["warm"]
        middle = sorted(cold)[ROUNDS // 2], sorted(warm)[ROUNDS // 2]
        rows += [
            plain(f"{engine}, cold", middle[0], "ms"),
            plain(f"{engine}, warm", middle[1], "ms"),
            at_least(f"{engine}, cold ÷ warm", middle[0] / middle[1], LEAST),
        ]
    prefixes.clear()
    return rows


def asking(engine: str) -> Callable[[], float]:
    """The time to the first token of a fresh process, in milliseconds."""

    def run() -> float:
        code = ASK.format(engine=engine, warm=False)
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        return float(done.stdout)

    return run
