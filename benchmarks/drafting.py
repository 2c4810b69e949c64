"""A draft model on llama.cpp: tokens a second of decoding with it ÷ without any guesses, one query at a
time, greedy, in interleaved rounds on fresh texts (gsm8k's questions, which EDGEAI_DATA's folder holds). It
is tried where it can pay (the model in 32 bits, drafts by the same in 4) and where it cannot (both in 4
bits). The first round, in which it may lose a second to find that out, is not counted. A ratio is the median
of the rounds' ratios.
"""

import itertools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

from benchmarks.parallel import requantized
from benchmarks.speculation import N_CTX, TASKS, fresh, questions, threes
from benchmarks.table import Row, at_least, interleaved, plain, ratio
from benchmarks.workers import Contender, worker
from edgeai import Edge
from edgeai.engines.llamacpp.requantize import requantize

DRAFTED = ("rewriting", "chat")
ROUNDS = 3


def measure() -> list[Row]:
    """The rows of the table. Takes about a minute and a half on two quiet cores."""
    with tempfile.TemporaryDirectory() as folder:
        files = {name: requantized(Path(folder), name) for name in ("Q4_1", "Q4_0")}
        files["F32"] = Path(folder) / "F32.gguf"
        requantize(files["Q4_1"], files["F32"], "f32", n_threads=os.cpu_count() or 1)
        return [row for name in ("F32", "Q4_1") for row in one_model(name, files[name], files["Q4_0"])]


def one_model(name: str, file: Path, draft: Path) -> list[Row]:
    """What guesses of a model in 4 bits give."""
    with worker(drafted, str(file), str(draft)) as ask:
        contenders: dict[str, Callable[[], float]] = {}
        for kind, side in itertools.product(DRAFTED, ("with", "without")):
            contenders[f"{kind} {side}"] = lambda asked=f"{kind} {side}": ask(asked)  # type: ignore[misc]
        figures = interleaved(contenders, rounds=ROUNDS)
    gains = {kind: ratio(figures, f"{kind} with", f"{kind} without") for kind in DRAFTED}
    speed = plain(f"{name}, plain decoding", median(figures["chat without"]), "tok/s")
    return [speed] + [
        at_least(f"{name}, {kind}, with Q4_0 as draft model ÷ plain", gain, 0.97)
        for kind, gain in gains.items()
    ]


def drafted(file: str, draft: str) -> Contender:
    """One Edge with the draft model, and one without any guesses."""
    on = Edge(file, draft=draft, n_ctx=N_CTX, parallel=1, ledger=False, isolation="thread")
    off = Edge(file, speculate=False, n_ctx=N_CTX, parallel=1, ledger=False, isolation="thread")
    texts = list(threes(questions()))
    sides = {"with": on, "without": off}
    return {
        f"{kind} {side}": fresh(edge, TASKS[kind], texts) for kind in DRAFTED for side, edge in sides.items()
    }
