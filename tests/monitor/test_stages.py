"""Early stages: what they may lose, what they save, and that a frozen pipeline counts what they remove."""

import numpy as np
import pytest

from edgeai.monitor.examples import Example, Observation, prompt_key
from edgeai.monitor.fit_stages import MOST_LOST, Worth, fit_futility, fit_router
from edgeai.monitor.metrics import apgr
from edgeai.monitor.prompts import hashed_words, prompt_features
from edgeai.monitor.score import Column, Score
from edgeai.monitor.stages import CHECKPOINTS, REMOVED, Pipeline


def streams(n: int, seed: int, *, right: float = 0.5) -> list[Example]:
    """Long answers: wrong ones are unsure from the start, and more so with every token."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(n):
        good = bool(random.random() < right)
        length = int(random.integers(40, 200))
        steps = -random.exponential(0.2 if good else 0.6, length)
        prefixes = {
            at: {
                "sum_logprob": float(steps[:at].sum()), "min_logprob": float(steps[:at].min()),
                "mean_logprob": float(steps[:at].mean()), "first_logprob": float(steps[0]),
            }
            for at in CHECKPOINTS if at <= length
        }  # fmt: skip
        features = {
            "sum_logprob": float(steps.sum()),
            "mean_logprob": float(steps.mean()),
            "log_length": float(np.log(length)),
        }
        seen = Observation(features=features, prefixes=prefixes)
        found.append(Example(key=prompt_key(f"{seed} {number}"), seen=seen, right=float(good)))
    return found


def outcome(examples: list[Example]) -> tuple[np.ndarray, np.ndarray]:
    right = np.array([row.right == 1 for row in examples])
    means = np.array([row.seen.features["mean_logprob"] for row in examples], float)
    return right, means > -0.35


def test_futility_saves_much_and_loses_little() -> None:
    """On later queries it saves 40 % of the escalated tokens and loses about 2 % of the kept and right."""
    train, later = streams(600, 1), streams(4000, 2)
    futility = fit_futility(train, *outcome(train))
    assert futility is not None
    assert futility.lost <= MOST_LOST
    right, kept = outcome(later)
    exits = [futility.exit_at(row.seen) for row in later]
    lost = np.mean([exit_ is not None for exit_ in np.array(exits, object)[right & kept]])
    lengths = np.array([np.exp(row.seen.features["log_length"] or 0) for row in later])
    saved = sum(length - at for length, at, k in zip(lengths, exits, kept, strict=True) if at and not k)
    assert lost <= MOST_LOST + 3 * np.sqrt(MOST_LOST / (right & kept).sum())
    assert saved / lengths[~kept].sum() >= 0.4


def test_a_hopeless_model_stops_at_once() -> None:
    """Where nothing ends kept and right, every answer is left after its first token."""
    train = streams(100, 1, right=0.0)
    futility = fit_futility(train, np.zeros(100, bool), np.zeros(100, bool))
    assert futility is not None
    assert {futility.exit_at(row.seen) for row in streams(50, 2)} == {1}


def test_too_few_kept_answers_allow_no_exit() -> None:
    """2 % of thirty answers is nobody: no checkpoint rather than a broken promise."""
    train = streams(60, 1)
    right, kept = outcome(train)
    assert 0 < (right & kept).sum() < 49
    assert fit_futility(train, right, kept) is None
    assert (
        fit_futility(
            [Example(key="", seen=Observation(features={}))] * 50, np.ones(50, bool), np.ones(50, bool)
        )
        is None
    )


def prompts(n: int, seed: int) -> list[Example]:
    """Sums, which the device gets wrong and the cloud right, and greetings, which both get right."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(n):
        hard = bool(random.random() < 0.5)
        text = f"Compute {number * 37} times {number} please" if hard else f"Say hello to guest {number}"
        seen = Observation(features=prompt_features(text), words=hashed_words(text))
        device = float(random.random() < (0.2 if hard else 0.95))
        found.append(Example(key=prompt_key(f"{seed}{text}"), seen=seen, right=device, cloud=1.0))
    return found


def test_the_router_learns_the_gain() -> None:
    """It ranks by how much better the cloud is, and loses at most 2 % of the kept and right in training."""
    train, later = prompts(400, 1), prompts(600, 2)
    good = np.array([row.right == 1 for row in train])
    router, crossed = fit_router(train, good)
    scores = [-router.gain(row.seen) for row in later]
    assert (apgr(scores, [row.right or 0 for row in later], [row.cloud or 0 for row in later]) or 0) > 0.7
    assert (crossed[good] > router.threshold).mean() <= MOST_LOST
    assert np.corrcoef(crossed, [router.gain(row.seen) for row in train])[0, 1] > 0.9


def test_a_dear_cloud_is_asked_less() -> None:
    """The price and the waiting, in units of a right answer, raise the gain that is needed."""
    train = prompts(200, 1)
    nobody = np.zeros(200, bool)
    cheap, dear = (
        fit_router(train, nobody, worth)[0]
        for worth in (Worth(), Worth(cloud_usd=0.5, second_usd=0.1, wait_s=2))
    )
    assert dear.threshold == pytest.approx(0.7)
    assert cheap.threshold < dear.threshold
    assert sum(cheap.leaves(row.seen) for row in train) > sum(dear.leaves(row.seen) for row in train)


def test_an_effective_score_is_below_all_thresholds_after_an_exit() -> None:
    """Sent away before, while or for want of a score: REMOVED; else the score itself."""
    column = Column(name="sum_logprob", mean=0, scale=1, low=-9, high=0, weight=1)
    score = Score(name="s", intercept=0, columns=(column,))
    train = streams(600, 1)
    futility = fit_futility(train, *outcome(train))
    pipeline = Pipeline(score=score, futility=futility)
    assert futility is not None
    for row in train[:50]:
        left = futility.exit_at(row.seen) is not None
        assert pipeline.effective(row.seen) == (REMOVED if left else score(row.seen))
    assert pipeline.effective(Observation(features={})) == REMOVED
    routed = prompts(200, 1)
    router, _ = fit_router(routed, np.zeros(200, bool))
    leaving = [row.seen for row in routed if router.leaves(row.seen)]
    assert leaving
    assert {Pipeline(score=score, router=router).effective(seen) for seen in leaving} == {REMOVED}
