"""Fitting a score: it finds what is there, chooses the simple where that does, and is the same every time."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from edgeai.monitor.codec import decode, dumps, encode
from edgeai.monitor.design import columns, predict, tabulate
from edgeai.monitor.examples import Example, Observation, prompt_key
from edgeai.monitor.fitting import fit_score, targets
from edgeai.monitor.learners import isotonic
from edgeai.monitor.metrics import auroc, brier
from edgeai.monitor.probing import fit_probe
from edgeai.monitor.score import Score, sigmoid
from tests.monitor.recorded import TASKS, recorded

N = 200


def made_up(n: int, seed: int = 0, *, hidden: bool = False, gap: float = 0.0) -> list[Example]:
    """The sum of the logprobs tells a little, the label much, the state everything (if there is one)."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(n):
        label = "ab"[int(random.random() < 0.5)]
        right = bool(random.random() < (0.9 if label == "a" else 0.2))
        total = float(random.normal() + 0.5 * right)
        state = random.normal(size=40).astype(np.float32)
        state[3] += 4 * right
        features = {"sum_logprob": total, "min_logprob": None if random.random() < gap else total / 2}
        seen = Observation(features=features, categories={"label": label}, hidden=state if hidden else None)
        found.append(Example(key=prompt_key(str(number)), seen=seen, right=float(right)))
    return found


def test_it_finds_the_label() -> None:
    """Errors that depend on the predicted label are found by its one-hot."""
    fitted = fit_score(made_up(300))
    assert fitted.choice.categories
    later = made_up(500, seed=1)
    scores = [fitted.score(row.seen) or 0 for row in later]
    assert (auroc(scores, targets(later)) or 0) > 0.85


def test_it_finds_the_probe() -> None:
    """A state that tells everything is taken, and serves at run time as it did in training."""
    fitted = fit_score(made_up(300, hidden=True))
    assert fitted.score.needs_hidden
    later = made_up(500, seed=1, hidden=True)
    assert (auroc([fitted.score(row.seen) or 0 for row in later], targets(later)) or 0) > 0.95


def test_a_bent_border_needs_the_network() -> None:
    """Where right and wrong lie on a ring, the small network wins over the line; on a slope the line does."""
    random = np.random.default_rng(0)
    x = random.normal(size=(400, 2)).astype(np.float32)
    ring = (x**2).sum(axis=1) < 1.4
    slope = x[:, 0] + 0.5 * random.normal(size=400) > 0
    bent, straight = (fit_probe(list(x), y) for y in (ring, slope))
    assert bent is not None
    assert straight is not None
    assert (bent.kind, straight.kind) == ("small network", "line")
    logits = [bent.probe.logit(row) or 0.0 for row in x]
    assert (auroc(logits, ring) or 0) > 0.9


def test_states_that_do_not_fit_give_no_probe() -> None:
    """One missing state, or one of another width: no probe, rather than one for some."""
    y = np.arange(20) % 2 == 0
    states = [np.zeros(3, np.float32) for _ in y]
    assert fit_probe([*states[:-1], None], y) is None
    assert fit_probe([*states[:-1], np.zeros(4, np.float32)], y) is None


@pytest.mark.parametrize("task", TASKS)
def test_on_recorded_answers(task: str) -> None:
    """On answers it has not seen the score is no worse than the probability of the label alone."""
    rows = recorded(task)
    fitted = fit_score(rows[:N])
    right = targets(rows[N:])
    ours = auroc([fitted.score(row.seen) or 0 for row in rows[N:]], right)
    plain = auroc([row.seen.features["label_p"] or 0 for row in rows[N:]], right)
    assert ours is not None
    assert plain is not None
    print(f"{task}: {fitted.choice.name} {ours:.3f}, label probability {plain:.3f}")  # noqa: T201
    assert ours > plain - 0.03
    assert abs((auroc(fitted.cross_fitted, targets(rows[:N])) or 0) - ours) < 0.12


def test_the_table_and_the_run_time_agree() -> None:
    """Scores of whole tables, as in fitting, are those that single answers get, missing values too."""
    rows = made_up(200, gap=0.05)
    fitted = fit_score(rows, only=["sum-min", "sum-min+label"])
    table = [sigmoid(logit) for logit in predict(fitted.score, tabulate([row.seen for row in rows]))]
    assert [fitted.score(row.seen) for row in rows] == pytest.approx(table)


def test_what_is_mostly_missing_or_constant_is_not_used() -> None:
    """A feature that a tenth of the examples lack is no feature."""
    rows = made_up(200, gap=0.2)
    table = tabulate([replace(row.seen, features={**row.seen.features, "one": 1.0}) for row in rows])
    assert [c.name for c in columns(table, ("sum_logprob", "min_logprob", "one"), targets(rows))] == [
        "sum_logprob"
    ]


def test_the_same_data_give_the_same_score() -> None:
    """Fitting is deterministic, and the score is a small piece of JSON that comes back equal."""
    first, second = (fit_score(made_up(150, hidden=True)).score for _ in range(2))
    assert first == second
    text = dumps(encode(first))
    assert len(text) < 20_000
    assert decode(Score, json.loads(text)) == first


def test_isotonic_where_it_helps() -> None:
    """With 500 examples and a bent truth the steps are used and calibrate better; with fewer never."""
    random = np.random.default_rng(0)

    def bent(n: int) -> list[Example]:
        x = random.random(n)
        right = random.random(n) < np.where(x < 0.5, 0.1, 0.65 + 0.3 * (x > 0.9))
        return [
            Example(key=str(i), seen=Observation(features={"sum_logprob": float(v)}), right=float(r))
            for i, (v, r) in enumerate(zip(x, right, strict=True))
        ]

    assert not fit_score(bent(400)).score.curve
    score = fit_score(bent(1500)).score
    assert score.curve
    later = bent(4000)
    raw = [score(row.seen) or 0 for row in later]
    assert brier([score.confidence(value) or 0 for value in raw], targets(later)) < brier(raw, targets(later))


def test_isotonic_steps_rise() -> None:
    """Each step is higher than the one before and begins at a score that was seen."""
    random = np.random.default_rng(0)
    x = random.random(300)
    steps = isotonic(x, random.random(300) < x)
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(steps))
    assert {score for score, _ in steps} <= set(x.tolist())


def test_agreement_stands_in_for_references() -> None:
    """Without a reference the target is whether the cloud agrees."""
    rows = [replace(row, right=None, agrees=bool(row.right)) for row in made_up(100)]
    assert (targets(rows) == targets(made_up(100))).all()
    assert fit_score(rows).score == fit_score(made_up(100)).score
