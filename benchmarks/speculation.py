"""Drafts from the prompt, and constrained answers, on llama.cpp: tokens a second of decoding with them ÷
without, one query at a time, greedy, in interleaved rounds on fresh texts (gsm8k's questions, which
EDGEAI_DATA's folder holds). The seconds are the processor's, with one thread: a neighbour that takes the core
away makes neither side slower. The ceiling of drafts is what a batch of 8 rows gives over one row, times the
share of its rows that are right with drafts of 7. A ratio is the median of the rounds' ratios.
"""

import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.parallel import requantized
from benchmarks.table import Row, at_least, interleaved, plain, ratio
from benchmarks.workers import Contender, worker
from edgeai import Edge
from edgeai.engines.jobs import Job
from edgeai.engines.llamacpp.engine import LlamaCppEngine
from edgeai.engines.slots import Slot
from edgeai.engines.speculate import Lookup, Odds

FORMATS = ("Q4_1", "Q4_0")
TASKS = {
    "extraction": "Copy out, word for word, every sentence of this text that contains a number.\n\n{}",
    "rewriting": "Repeat this text exactly, but write all numbers as digits.\n\n{}",
    "summary with quotes": "Summarize this text in three sentences, and quote its key phrases.\n\n{}",
    "chat": "Tell me a new story about somebody like the one in this text.\n\n{}",
}
SCHEMA = {
    "type": "object",
    "properties": {
        "people": {
            "type": "array",
            "items": {"type": "string", "maxLength": 20},
            "minItems": 3,
            "maxItems": 6,
        },
        "numbers": {"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 8},
        "topic": {"type": "string", "maxLength": 60},
    },
    "required": ["people", "numbers", "topic"],
    "additionalProperties": False,
}
N_TOKENS = 64
ROUNDS = 3
N_CTX = 2048


def measure() -> list[Row]:
    """The rows of the table. Takes about three minutes on a quiet core."""
    next(questions())  # without the data it ends here
    with tempfile.TemporaryDirectory() as folder:
        return [row for name in FORMATS for row in one_format(name, requantized(Path(folder), name))]


def one_format(name: str, file: Path) -> list[Row]:
    """Its drafts, and its constrained answers."""
    with worker(edges, str(file)) as ask:
        kinds = [*TASKS, "constrained"]
        contenders: dict[str, Callable[[], float]] = {}
        for kind, side in itertools.product(kinds, ("with", "without")):
            contenders[f"{kind} {side}"] = lambda asked=f"{kind} {side}": ask(asked)  # type: ignore[misc]
        figures = interleaved(contenders, rounds=ROUNDS)
        ceilings = {task: ask(f"{task} ceiling") for task in TASKS}
        over_one = ask("8 rows over 1")
    rows = [plain(f"{name}, plain decoding", median(figures["chat without"]), "tok/s")]
    rows += [at_least(f"{name}, 8 rows at once ÷ one by one", over_one)]
    for task in TASKS:
        gain = ratio(figures, f"{task} with", f"{task} without")
        rows += [at_least(f"{name}, {task}, drafts ÷ plain", gain, 0.97)]
        ceiling = max(1.0, over_one * ceilings[task])
        rows += [at_least(f"{name}, {task}, the same ÷ its ceiling of {ceiling:.2f}", gain / ceiling, 0.7)]
    held = ratio(figures, "constrained with", "constrained without")
    return [*rows, at_least(f"{name}, JSON schema ÷ unconstrained", held, 0.9)]


def edges(file: str) -> Contender:
    """Two Edges on one file, and what each task gives on them."""
    on, off = (
        Edge(file, n_ctx=N_CTX, parallel=1, threads=1, speculate=drafts, ledger=False, isolation="thread")
        for drafts in (True, False)
    )
    texts = list(threes(questions()))
    figures: dict[str, Callable[[], float]] = {"8 rows over 1": lambda: rows_over_one(off)}
    for task, form in TASKS.items():
        figures[f"{task} with"] = fresh(on, form, texts)
        figures[f"{task} without"] = fresh(off, form, texts)
        figures[f"{task} ceiling"] = share(off, form, texts)
    form = "What does this text say?\n\n{}"
    figures["constrained with"] = fresh(off, form, texts, schema=SCHEMA)
    figures["constrained without"] = fresh(off, form, texts)
    return figures


def questions() -> Iterator[str]:
    """Real texts."""
    if "EDGEAI_DATA" not in os.environ:
        raise SystemExit("EDGEAI_DATA must name the folder with the data sets")
    with (Path(os.environ["EDGEAI_DATA"]) / "gsm8k" / "test.jsonl").open(encoding="utf-8") as lines:
        for line in itertools.islice(lines, 300):
            yield json.loads(line)["question"]


def threes(texts: Iterator[str]) -> Iterator[str]:
    """Three at a time, as one text."""
    while three := list(itertools.islice(texts, 3)):
        yield " ".join(three)


def fresh(edge: Edge, form: str, texts: Sequence[str], **options: Any) -> Callable[[], float]:  # noqa: ANN401
    """Decoding speed with the next text each time."""
    left = iter(texts)

    def run() -> float:
        stream = edge.stream(form.format(next(left)), max_tokens=N_TOKENS, **options)
        next(stream)
        began = time.process_time()
        n_tokens = stream.answer().usage.completion_tokens
        assert n_tokens
        return (n_tokens - 1) / (time.process_time() - began)

    return run


def share(edge: Edge, form: str, texts: Sequence[str]) -> Callable[[], float]:
    """Which share of 8 rows would be right, if each batch had a draft of 7 where there is one."""

    def run() -> float:
        engine = edge._session.engine
        rows = right = 0
        for text in texts[:ROUNDS]:
            prompt = list(engine.tokenize(form.format(text)))
            tokens = prompt + list(engine.tokenize(edge.ask(form.format(text), max_tokens=N_TOKENS).text))
            lookup, odds, at = Lookup(len(prompt)), Odds(), len(prompt)
            while at < len(tokens):
                lookup.follow(tokens[:at], odds)
                ahead = lookup.ahead(tokens[:at], 7)
                hits = next(
                    (i for i, t in enumerate(ahead) if tokens[at : at + i + 1][-1:] != [t]), len(ahead)
                )
                rows, right, at = rows + 8, right + 1 + hits, at + 1 + hits
        return right / rows

    return run


def rows_over_one(edge: Edge) -> float:
    """How much faster 8 rows are than 8 times one."""
    engine = edge._session.engine
    assert isinstance(engine, LlamaCppEngine)
    context = engine._context
    seconds: dict[int, list[float]] = {1: [], 8: []}

    def steps(slot: Slot) -> Generator[None]:
        for n in [1, 8] * 20:
            context.forget(slot.seq)
            context.add(slot.tokens[:8], 0, slot.seq)
            context.decode()
            began = time.process_time()
            context.add(slot.tokens[8 : 8 + n], 8, slot.seq, outputs=n)
            context.decode()
            seconds[n].append(time.process_time() - began)
            slot.n_past = 0
            context.forget(slot.seq)
            yield

    tokens = list(
        engine.tokenize("The quick brown fox jumps over the lazy dog, and then it sleeps for hours.")
    )
    job = Job(prompt=tokens, need=len(tokens), steps=steps, fresh=True)
    engine._scheduler.submit(job)
    job.done.result()
    return 8 * median(seconds[1]) / median(seconds[8])
