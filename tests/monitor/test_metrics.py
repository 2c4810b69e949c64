"""Metrics against scikit-learn, brute force and closed forms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from edgeai.monitor import metrics

tied = st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=2, max_size=60)
paired = st.lists(st.tuples(st.integers(0, 8), st.booleans(), st.booleans()), min_size=2, max_size=60)


@given(tied)
def test_ranking_is_scikit_learns(rows: list[tuple[int, bool]]) -> None:
    """AUROC and the average precision of finding errors, ties included."""
    scores, right = np.array([r[0] for r in rows], float), np.array([r[1] for r in rows])
    if len(set(right.tolist())) < 2:
        assert metrics.auroc(scores, right) is None
        return
    assert metrics.auroc(scores, right) == pytest.approx(roc_auc_score(right, scores))
    assert metrics.auprc_wrong(scores, right) == pytest.approx(average_precision_score(~right, -scores))


@given(tied)
def test_coverage_by_brute_force(rows: list[tuple[int, bool]]) -> None:
    """The largest kept share within the risk, over all thresholds."""
    scores, right = np.array([r[0] for r in rows], float), np.array([r[1] for r in rows])
    for risk in metrics.RISKS:
        kept = [scores >= t for t in set(scores.tolist())]
        fitting = [k.mean() for k in kept if (~right[k]).mean() <= risk]
        assert metrics.coverage_at_risk(scores, right, risk) == pytest.approx(max(fitting, default=0.0))


def test_calibration() -> None:
    """A coin told as a half is calibrated; told as sure it is wrong by a half."""
    right = np.tile([True, False], 50)
    assert metrics.ece(np.full(100, 0.5), right) == pytest.approx(0)
    assert metrics.ece(np.full(100, 1.0), right) == pytest.approx(0.5)
    assert metrics.brier(np.full(100, 0.5), right) == pytest.approx(0.25)


def test_aurc_closed_form() -> None:
    """Perfect order of 1 error in 2: risks 0 and 1/2; the reverse order: 1 and 1/2; a tie: 1/2 and 1/2."""
    assert metrics.aurc([2, 1], [True, False]) == pytest.approx(0.25)
    assert metrics.aurc([1, 2], [True, False]) == pytest.approx(0.75)
    assert metrics.aurc([1, 1], [True, False]) == pytest.approx(0.5)


@given(paired)
def test_the_deferral_curve(rows: list[tuple[int, bool, bool]]) -> None:
    """It starts at the device's quality, ends at the cloud's, and no score is better than the oracle."""
    s, w, c = (np.array(part, float) for part in zip(*rows, strict=True))
    rates, quality = metrics.deferral(s, w, c)
    assert (rates[0], rates[-1]) == (0, 1)
    assert quality[[0, -1]] == pytest.approx([w.mean(), c.mean()])
    _, best = metrics.deferral(metrics.oracle(w, c), w, c)
    assert (best >= quality - 1e-9).all()


@given(paired)
def test_equal_scores_are_random_escalation(rows: list[tuple[int, bool, bool]]) -> None:
    """A score that says nothing recovers half of the gap on average, and half of it at half the rate."""
    _, w, c = (np.array(part, float) for part in zip(*rows, strict=True))
    flat = np.zeros(len(w))
    if c.mean() <= w.mean():
        assert metrics.apgr(flat, w, c) is None
        assert metrics.cpt(flat, w, c, 0.5) is None
        return
    assert metrics.apgr(flat, w, c) == pytest.approx(0.5)
    assert metrics.cpt(flat, w, c, 0.5, bins=10) == pytest.approx(50, abs=100 / len(w))


def test_cpt_and_apgr_by_hand() -> None:
    """Four queries, the cloud wins on two: escalating those first recovers all at half the rate."""
    weak, strong = [0, 0, 1, 1], [1, 1, 1, 1]
    scores = [1, 2, 3, 4]
    assert metrics.cpt(scores, weak, strong, 0.5) == 25
    assert metrics.cpt(scores, weak, strong, 0.8) == 50
    assert metrics.apgr(scores, weak, strong) == pytest.approx(0.75)
    assert metrics.apgr([4, 3, 2, 1], weak, strong) == pytest.approx(0.25)


def test_pairs_add_up() -> None:
    """The shares are counts over n, and the four cells sum to 1."""
    found = metrics.pairs([1, 1, 0, 0, 0], [1, 0, 1, 1, 0])
    assert (found.W, found.S, found.only_s, found.only_w, found.neither) == (0.4, 0.6, 0.4, 0.2, 0.2)
    assert "only-S=0.400" in str(found)


def test_the_bootstrap_interval_covers_the_mean() -> None:
    """It lies around the statistic, as wide as the theory says; the same seed gives the same."""
    values = np.random.default_rng(0).normal(size=400)
    low, high = metrics.bootstrap(lambda rows: float(values[rows].mean()), 400)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.15)
    assert (low, high) == metrics.bootstrap(lambda rows: float(values[rows].mean()), 400)
