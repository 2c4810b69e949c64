"""Fit the early stages on the training split and freeze them with the score.

Stage 1 may lose 2 % of the training queries that end kept and right, stage 2 as many. Which ones those are is
judged at a provisional threshold, and every score used for it is cross-fitted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgeai.monitor.design import columns, matrix, tabulate
from edgeai.monitor.examples import Example, Observation
from edgeai.monitor.fitting import Choice, cross_fit, fit_with
from edgeai.monitor.learners import one_thread, ridge
from edgeai.monitor.probe import pack
from edgeai.monitor.prompts import BUCKETS
from edgeai.monitor.score import Column, Score
from edgeai.monitor.stages import CHECKPOINTS, Checkpoint, Futility, Router

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]

__all__ = ["Worth", "fit_futility", "fit_router"]

MOST_LOST = 0.02
NUMBER_WEIGHT = 0.1  # a numeric feature beside a word: TF-IDF rows have length 1
LEAST_QUERIES = 20
LEAST_OF_A_CLASS = 4
RIDGE_PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0)
FOLDS = 5
ALWAYS = 2.0
_PREFIX = (
    "sum_logprob", "min_logprob", "mean_logprob", "mean_entropy", "worst_window_entropy", "mean_margin",
    "share_below_half", "lowest_window_logprob", "first_logprob", "first_margin", "first_entropy",
    "distinct_3",
)  # fmt: skip
_PROMPT = (
    "prompt_log_length", "prompt_log_words", "prompt_digits", "prompt_digit_share", "prompt_code",
    "prompt_latex", "prompt_choices",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What a right answer and a second of waiting are worth, and what the cloud costs, in one currency.

    ``answer_usd`` is v, ``second_usd`` w, ``cloud_usd`` the mean cost of a cloud answer; ``wait_s`` is how
    much longer the cloud takes than the device, negative when it is faster.
    """

    answer_usd: float = 1.0
    second_usd: float = 0.0
    cloud_usd: float = 0.0
    wait_s: float = 0.0

    @property
    def least_gain(self) -> float:
        """The gain in quality above which a cloud answer is worth its price and its time."""
        return (self.cloud_usd + self.second_usd * self.wait_s) / self.answer_usd


def fit_router(
    examples: Sequence[Example], good_and_kept: "Bools", worth: Worth | None = None
) -> tuple[Router, "Floats"]:
    """Stage 1 from examples with both qualities: the router, and the cross-fitted gains of the examples.

    ``good_and_kept`` marks the examples that end kept and right; at most 2 % of them leave.
    """
    seen = [example.seen for example in examples]
    gains = np.array([(example.cloud or 0.0) - (example.right or 0.0) for example in examples])
    with one_thread():
        crossed = {penalty: _cross_gains(seen, gains, penalty) for penalty in RIDGE_PENALTIES}
        penalty = min(RIDGE_PENALTIES, key=lambda p: float(np.mean((crossed[p] - gains) ** 2)))
        threshold = max((worth or Worth()).least_gain, _most_kept(crossed[penalty], good_and_kept))
        return _router(seen, gains, penalty, threshold), crossed[penalty]


def fit_futility(examples: Sequence[Example], right: "Bools", kept: "Bools") -> Futility | None:
    """Stage 2 from the examples' prefixes; None when no checkpoint has enough of them.

    ``kept`` marks the examples that the provisional threshold keeps. A checkpoint whose threshold is the r-th
    lowest score of the k good queries loses a new one with probability r/(k+1) at most (split conformal), so
    2 % buy r = ⌊0.02 (k+1)⌋ in all. If that is less than the checkpoints, those that save most tokens get it.
    """
    good = right & kept
    points = [
        n for n in CHECKPOINTS if sum(n in example.seen.prefixes for example in examples) >= LEAST_QUERIES
    ]
    ranks = math.floor(MOST_LOST * (good.sum() + 1) + 1e-9)
    if not points or (good.any() and not ranks):
        return None
    drafts = [_draft(examples, right, good, n, max(1, ranks // len(points))) for n in points]
    lengths = np.array([_length(example.seen) for example in examples])
    if good.any() and ranks < len(points):
        drafts.sort(key=lambda draft: -draft.saved(lengths, kept))
        drafts = drafts[:ranks]
    drafts = sorted(
        (draft for draft in drafts if draft.saved(lengths, kept) > 0), key=lambda d: d.check.tokens
    )
    gone = np.any([draft.leaving for draft in drafts], axis=0) if drafts else np.zeros(len(good), bool)
    lost = float(gone[good].mean()) if good.any() else 0.0
    return Futility(checkpoints=tuple(draft.check for draft in drafts), lost=lost) if drafts else None


@dataclass(frozen=True, slots=True)
class _Draft:
    """A checkpoint, and who leaves at it."""

    check: Checkpoint
    leaving: "Bools"

    def saved(self, lengths: "Floats", kept: "Bools") -> float:
        """Tokens that queries which escalate anyway need not decode."""
        return float((lengths - self.check.tokens)[self.leaving & ~kept].sum())


def _draft(examples: Sequence[Example], right: "Bools", good: "Bools", n: int, rank: int) -> _Draft:
    rows = np.array([row for row, example in enumerate(examples) if n in example.seen.prefixes])
    table = tabulate([Observation(features=examples[row].seen.prefixes[n]) for row in rows])
    y, scores = right[rows], np.full(len(examples), ALWAYS)
    if min(int(y.sum()), int((~y).sum())) < LEAST_OF_A_CLASS:
        score = _constant(n)
        scores[rows] = 0.5
    else:
        choice = Choice(name="prefix", features=_PREFIX, categories=False, c=0.1)
        score = fit_with(table, y, choice, f"after {n} tokens")
        scores[rows] = cross_fit(table, y, choice)
    left = np.sort(scores[rows][good[rows]])
    threshold = float(left[min(rank, len(left)) - 1]) if len(left) else ALWAYS
    return _Draft(Checkpoint(tokens=n, score=score, threshold=threshold), scores < threshold)


def _constant(n: int) -> Score:
    """One half for everybody: with one class only there is nothing to tell apart."""
    column = Column(name="first_logprob", mean=0.0, scale=1.0, low=0.0, high=0.0, weight=0.0)
    return Score(name=f"after {n} tokens", intercept=0.0, columns=(column,))


def _length(seen: Observation) -> float:
    return math.exp(seen.features.get("log_length") or 0.0)


def _most_kept(gains: "Floats", good: "Bools") -> float:
    """The lowest threshold of the gain above which at most 2 % of the good queries are."""
    if not good.any():
        return -1.0
    ranks = math.floor(MOST_LOST * (good.sum() + 1) + 1e-9)
    return float(np.sort(gains[good])[::-1][max(ranks, 1) - 1])


def _cross_gains(seen: Sequence[Observation], gains: "Floats", penalty: float) -> "Floats":
    order = np.random.default_rng(0).permutation(len(seen))
    found = np.empty(len(seen))
    for judge_on in np.array_split(order, min(FOLDS, len(seen))):
        fit_on = np.setdiff1d(order, judge_on)
        router = _router([seen[row] for row in fit_on], gains[fit_on], penalty, 0.0)
        found[judge_on] = [router.gain(seen[row]) for row in judge_on]
    return found


def _router(seen: Sequence[Observation], gains: "Floats", penalty: float, threshold: float) -> Router:
    table = tabulate(seen)
    usable = columns(table, _PROMPT, gains)
    idf, used, words = _weighted_words(seen)
    numbers = matrix(table, usable, {}) * NUMBER_WEIGHT
    weights, intercept = ridge(np.hstack([numbers, words]), gains, penalty)
    spread = np.zeros(BUCKETS)
    spread[used] = weights[len(usable) :]
    return Router(
        intercept=intercept,
        columns=tuple(
            replace(column, weight=float(weight) * NUMBER_WEIGHT)
            for column, weight in zip(usable, weights, strict=False)
        ),
        idf=pack(idf),
        words=pack(spread),
        threshold=threshold,
    )


def _weighted_words(seen: Sequence[Observation]) -> "tuple[Floats, NDArray[np.intp], Floats]":
    """The weight of every bucket, the buckets in use, and the rows' TF-IDF in those, of length 1 each."""
    used = np.array(sorted({bucket for item in seen for bucket in item.words}), np.intp)
    place = {int(bucket): at for at, bucket in enumerate(used)}
    words, idf = np.zeros((len(seen), len(used))), np.full(BUCKETS, math.log(1 + len(seen)) + 1)
    for row, item in enumerate(seen):
        words[row, [place[bucket] for bucket in item.words]] = [1 + math.log(n) for n in item.words.values()]
    idf[used] -= np.log1p((words > 0).sum(axis=0))
    words *= idf[used]
    norms = np.linalg.norm(words, axis=1, keepdims=True)
    return idf, used, np.divide(words, norms, out=words, where=norms > 0)
