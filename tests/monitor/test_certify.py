"""Certifying on made-up populations, where the truth is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeai.errors import ContractInfeasible
from edgeai.monitor.certify import Plan, certify, p_values, plan
from edgeai.monitor.certify import test as run_test
from edgeai.monitor.exact import binomial_p, upper_bound
from edgeai.monitor.outcomes import Outcomes
from edgeai.monitor.promise import Promise
from edgeai.monitor.stages import REMOVED

KINDS = ["error<=0.1@0.9", "overall-error<=0.05@0.9", "quality>=0.9@0.9", "disagreement<=0.15@0.9"]


def population(n: int, seed: int, *, signal: float = 3.0, name: str = "q") -> Outcomes:
    """Scores in [0, 1]; the chance of being right rises with them; the cloud is nearly always right."""
    random = np.random.default_rng(seed)
    scores = random.random(n)
    right = random.random(n) < 1 / (1 + np.exp(-signal * 2 * (scores - 0.3)))
    cloud = random.random(n) < 0.98
    return Outcomes(
        keys=tuple(f"{name}{number}" for number in range(n)),
        scores=scores,
        wrong=~right,
        differs=right != cloud,
        weak=right.astype(float),
        strong=cloud.astype(float),
    )


@pytest.mark.parametrize("text", KINDS)
def test_a_certificate_says_what_was_counted(text: str) -> None:
    """Its counts are those of the calibration split at its threshold, and its test is passed by them."""
    promise = Promise.parse(text)
    train, held = population(400, 1), population(400, 2, name="c")
    proof = certify(promise, train, held)
    kept = held.scores >= proof.threshold
    losses = held.differs if promise.kind == "disagreement" else held.wrong
    assert losses is not None
    assert (proof.n, proof.kept, proof.errors) == (400, kept.sum(), (kept & losses).sum())
    assert proof.coverage == pytest.approx(kept.mean())
    assert 0.2 < proof.coverage < 1
    assert proof.p_value <= proof.level <= promise.delta
    if promise.kind in ("error", "disagreement"):
        assert proof.p_value == pytest.approx(float(binomial_p(proof.errors, proof.kept, promise.bound)))
    if promise.kind == "overall-error":
        assert upper_bound(proof.errors, proof.n, promise.delta) <= promise.bound


def test_the_audit_rate() -> None:
    """For D it is α itself; for the others the upper bound of the disagreement among the kept at δ / 4."""
    train, held = population(400, 1), population(400, 2, name="c")
    assert certify(Promise.parse("disagreement<=0.2@0.9"), train, held).audit_rate == 0.2
    proof = certify(Promise.parse("error<=0.1@0.9"), train, held)
    kept = held.scores >= proof.threshold
    assert held.differs is not None
    assert proof.audit_rate == pytest.approx(
        float(upper_bound((held.differs & kept).sum(), kept.sum(), 0.1 / 4))
    )


@pytest.mark.parametrize("text", KINDS)
def test_what_left_early_is_not_kept(text: str) -> None:
    """A query that a stage sent away is never counted as kept, at any threshold."""
    train, held = population(400, 1), population(900, 2, name="c")
    held.scores[:450] = REMOVED
    proof = certify(Promise.parse(text), train, held)
    assert 0 < proof.kept <= 450


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(KINDS), st.integers(0, 10_000), st.integers(1, 40))
def test_more_errors_never_loosen_the_threshold(text: str, seed: int, more: int) -> None:
    """With some right answers turned wrong, the same plan keeps no more than before."""
    made = plan(Promise.parse(text), population(200, 1), 200)
    held = population(200, seed)
    assert held.wrong is not None
    worse = np.random.default_rng(seed).permutation(200)[:more]
    wrong, weak, differs = held.wrong.copy(), np.array(held.weak, np.float64), np.array(held.differs)
    wrong[worse], weak[worse], differs[worse] = True, 0.0, True
    bad = Outcomes(
        keys=held.keys, scores=held.scores, wrong=wrong, differs=differs, weak=weak, strong=held.strong
    )
    before, after = run_test(made, held), run_test(made, bad)
    assert (after.place if after else -1) <= (before.place if before else -1)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(KINDS), st.integers(0, 10_000))
def test_the_loss_is_monotone_where_it_has_to_be(text: str, seed: int) -> None:
    """Lower thresholds keep more; the unconditional loss and its p-value only grow with what is kept."""
    held = population(150, seed)
    made = plan(Promise.parse(text), population(200, 1), 150)
    assert list(made.grid) == sorted(made.grid, reverse=True)
    assert made.grid[-1] == 0
    assert 0 <= made.start < len(made.grid)
    if made.promise.kind == "overall-error":
        assert (np.diff(p_values(made, held)) >= -1e-12).all()


def test_the_plan_does_not_see_the_calibration_split() -> None:
    """It is a function of the promise, the training split and a number."""
    train = population(200, 1)
    first, second = (plan(Promise.parse("error<=0.1@0.9"), train, 100) for _ in range(2))
    assert first == second
    assert isinstance(first, Plan)


@pytest.mark.parametrize("text", KINDS)
def test_broken_promises_are_rare_without_signal(text: str) -> None:
    """Where no threshold truly keeps the promise, it is certified in δ of all calibrations at most.

    The truth sits exactly on the bound for every threshold, which is the hardest case.
    """
    promise = Promise.parse(text)
    random = np.random.default_rng(11)
    train, runs, broken, n = _on_the_bound(promise, 300, random), 600, 0, 200
    made = plan(promise, train, n)
    for _ in range(runs):
        found = run_test(made, _on_the_bound(promise, n, random))
        broken += found is not None and (promise.kind != "overall-error" or found.place == len(made.grid) - 1)
    delta = promise.delta
    assert broken / runs <= delta + 3 * np.sqrt(delta * (1 - delta) / runs)
    assert broken > 0, "the test would say nothing if nothing could pass"


def _on_the_bound(promise: Promise, n: int, random: np.random.Generator) -> Outcomes:
    """Scores that mean nothing, and losses whose rate is the bound (for A: when all is kept)."""
    scores = random.random(n)
    bad = random.random(n) < promise.bound
    if promise.kind == "quality":  # only-S in (1 − ρ)·P(S): E Z = 0 when all is kept
        strong = random.random(n) < 0.9
        weak = strong & (random.random(n) < promise.bound)
        qualities = weak.astype(np.float64), strong.astype(np.float64)
        return Outcomes(keys=(), scores=np.ones(n), wrong=~weak, weak=qualities[0], strong=qualities[1])
    return Outcomes(keys=(), scores=scores, wrong=bad, differs=bad)


def test_too_few_labels_are_refused_with_the_number_needed() -> None:
    """The refusal names both procedures with their numbers, and carries the smaller one."""
    train, held = population(200, 1), population(50, 2, name="c")
    with pytest.raises(ContractInfeasible, match=r"66 kept answers \(fixed sequence.*117 kept") as caught:
        certify(Promise.parse("error<=0.05@0.95"), train, held)
    assert caught.value.labels == 66


def test_an_impossible_promise_says_about_how_many_labels_it_takes() -> None:
    """With a signal but too few labels the estimate is more than there are; certifying then succeeds."""
    promise = Promise.parse("error<=0.03@0.95")
    train = population(3000, 1, signal=5)
    with pytest.raises(ContractInfeasible, match="Label about") as caught:
        certify(promise, train, population(130, 2, signal=5, name="c"))
    needed = caught.value.labels
    assert needed is not None
    assert 130 < needed < 3000
    assert certify(promise, train, population(3 * needed, 3, signal=5, name="c")).kept > 0
