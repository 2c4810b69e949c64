"""What watching costs, and what leaving early saves.

The cost is the processor time of features, hidden states, checkpoints and score on a token of the answer,
beside the time of the engine's fastest round of decoding it (so that a busy machine does not flatter the
ratio). The statistics of the raw logits are not in it: the engine takes them for sampling anyway.

Leaving early: each fifth of the recorded answers is judged by a stage 2 that was fitted on the others. On
word problems of GSM8K the default model reasons for 140 tokens and gets next to nothing right, so nearly
all of that is in vain. "steps" are sums of three numbers worked out in two steps of 35 tokens in all,
after worked examples; a third is right. Their first sum is seen at the checkpoint of 16 tokens, and that
leaves too little to save: the aim of 40 % is not reached where the model is right sometimes, neither
there nor on plain sums of 15 tokens.
"""

import time
from collections.abc import Sequence
from statistics import median

import numpy as np
from numpy.typing import NDArray

from benchmarks.confidence.record import Recording, examples, record
from benchmarks.confidence.recorded import same_words
from benchmarks.confidence.scores import N_CTX
from benchmarks.confidence.tasks import task
from benchmarks.table import Row, table
from edgeai.edge import Edge
from edgeai.load import EngineName
from edgeai.monitor.examples import Example, Observation
from edgeai.monitor.fit_stages import fit_futility
from edgeai.monitor.fitting import fit_score
from edgeai.monitor.stages import Futility, Pipeline
from edgeai.monitor.watch import Watch
from edgeai.types import Message, Request, Token

__all__ = ["measure"]

ENGINES: tuple[EngineName, ...] = ("llamacpp", "onnx")
ROUNDS, N_TOKENS, REPEATS = 4, 64, 20
N_PROBLEMS = 70
FOLDS = 5
QUESTION = "Tell me about the sea."


def measure() -> str:
    """The table."""
    with Edge(engine="llamacpp", n_ctx=N_CTX, ledger=False) as edge:
        sums = _examples(edge, "arithmetic", None)
        problems = _examples(edge, "gsm8k", N_PROBLEMS)
        steps = _examples(edge, "steps", None)
    rows = [_cost(name, sums) for name in ENGINES]
    leaving = {"gsm8k": problems, "steps": steps, "arithmetic": sums}
    return table([*rows, *(row for name, found in leaving.items() for row in _leaving(name, *found))])


def _examples(edge: Edge, name: str, most: int | None) -> tuple[tuple[Recording, ...], tuple[Example, ...]]:
    about = task(name)
    recorded = record(edge, about, most=most)[1]
    return recorded, examples(about, recorded, strength=None, agrees=same_words)


def _cost(engine: EngineName, sums: tuple[tuple[Recording, ...], tuple[Example, ...]]) -> Row:
    data = list(sums[1])
    fitted = fit_score(data, only=("core", "core+probe"))
    futility, _ = _futility(data)
    pipeline = Pipeline(score=fitted.score, futility=futility)
    with Edge(engine=engine, n_ctx=N_CTX, ledger=False) as edge:
        rounds = [_decode(edge, number) for number in range(ROUNDS)]
        n_vocab = edge.info.n_vocab
    tokens = rounds[-1][1]
    step_s = min(seconds for seconds, _ in rounds)
    spent = median(_watch(pipeline, tokens, n_vocab) for _ in range(REPEATS))
    share = spent / step_s
    return Row(
        what=f"watching ÷ decoding, {engine} ({spent * 1e6:.0f} µs of {step_s * 1e3:.1f} ms a token)",
        figure=f"{share:.2%}",
        aim="≤ 3 %",
        reached=share <= 0.03,
    )


def _decode(edge: Edge, number: int) -> tuple[float, list[Token]]:
    """The median time of a token in one round, in seconds, and the tokens with their hidden states."""
    request = Request(messages=(Message("user", f"{QUESTION} {number}"),), max_tokens=N_TOKENS, hidden=True)
    with edge._session.engine.stream(request) as generation:
        tokens = list(generation)
    return median(token.step_s for token in tokens[1:]), tokens


def _watch(pipeline: Pipeline, tokens: Sequence[Token], n_vocab: int) -> float:
    """Seconds of this thread for one token, with the checkpoints and the score at the end."""
    started = time.thread_time()
    watch = Watch(QUESTION, n_vocab=n_vocab)
    for number, token in enumerate(tokens, 1):
        prefix = watch.observe(token)
        if prefix is not None and pipeline.futility is not None:
            pipeline.futility.leaves(number, Observation(features=prefix))
    pipeline.score(watch.seen(hit_limit=True))
    return (time.thread_time() - started) / len(tokens)


def _futility(data: Sequence[Example]) -> tuple[Futility | None, float]:
    """Stage 2, and the provisional threshold: the one that keeps as many as are right."""
    right = np.array([example.right == 1 for example in data])
    if right.sum() < 4:
        return fit_futility(data, right, np.zeros(len(data), bool)), 2.0
    crossed = fit_score(data, only=("core",)).cross_fitted
    threshold = float(np.quantile(crossed, 1 - right.mean()))
    return fit_futility(data, right, crossed >= threshold), threshold


def _leaving(name: str, recordings: Sequence[Recording], data: Sequence[Example]) -> list[Row]:
    """Tokens saved on the queries that escalate, and what is lost of the kept and right ones."""
    lengths = np.array([row.n_tokens for row in recordings])
    right = np.array([example.right == 1 for example in data])
    exits, kept = _exits(data)
    left = np.array([place is not None for place in exits])
    saved = sum(max(0, n - (at or n)) for n, at, stays in zip(lengths, exits, kept, strict=True) if not stays)
    share = float(saved / max(1, lengths[~kept].sum()))
    good = right & kept
    lost = float(left[good].mean()) if good.any() else 0.0
    head = f"{name}: {len(data)} answers of {lengths.mean():.0f} tokens, {right.mean():.1%} right"
    return [
        Row(
            what=f"{head}, {kept.mean():.0%} kept; tokens saved of the escalated",
            figure=f"{share:.0%}",
            aim="≥ 40 %",
            reached=share >= 0.4,
        ),
        Row(
            what=f"{name}: kept and right answers lost, of {int(good.sum())}",
            figure=f"{lost:.1%}",
            aim="≤ 2 %",
            reached=lost <= 0.02,
        ),
        Row(what=f"{name}: answers left after, median", figure=_median_exit(exits)),
    ]


def _exits(data: Sequence[Example]) -> tuple[list[int | None], NDArray[np.bool_]]:
    """Where each answer is left, and whether it is kept: by a stage and a score fitted without its fifth."""
    exits: list[int | None] = [None] * len(data)
    kept = np.zeros(len(data), bool)
    for fold in range(FOLDS):
        train = [example for number, example in enumerate(data) if number % FOLDS != fold]
        futility, threshold = _futility(train)
        score = fit_score(train, only=("core",)).score if threshold <= 1 else None
        for number in range(fold, len(data), FOLDS):
            seen = data[number].seen
            exits[number] = futility.exit_at(seen) if futility else None
            kept[number] = score is not None and (score(seen) or 0.0) >= threshold
    return exits, kept


def _median_exit(exits: Sequence[int | None]) -> str:
    places = [place for place in exits if place is not None]
    return f"{median(places):.0f} tokens, {len(places)} of {len(exits)}" if places else "none left"
