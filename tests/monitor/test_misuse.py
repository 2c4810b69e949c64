"""Every way to ask for a promise that cannot be made ends in an error that says why."""

from dataclasses import replace

import numpy as np
import pytest

from edgeai.errors import ContractInfeasible
from edgeai.monitor.certify import certify
from edgeai.monitor.examples import Example, Observation, prompt_key, split
from edgeai.monitor.fitting import fit_score
from edgeai.monitor.outcomes import Outcomes, outcomes
from edgeai.monitor.promise import Promise
from edgeai.monitor.stages import Pipeline

PROMISE = Promise.parse("error<=0.1@0.9")


def examples(n: int, *, name: str = "q", seed: int = 0, signal: float = 4.0) -> list[Example]:
    """Queries with one honest feature."""
    random = np.random.default_rng(seed)
    sums = random.normal(size=n)
    right = random.random(n) < 1 / (1 + np.exp(-signal * sums))
    return [
        Example(
            key=prompt_key(f"{name} {number}"),
            seen=Observation(features={"sum_logprob": float(value)}),
            right=float(good),
        )
        for number, (value, good) in enumerate(zip(sums, right, strict=True))
    ]


def certified(train: list[Example], held: list[Example]) -> Outcomes:
    fitted = fit_score(train)
    known = outcomes(train, fitted.cross_fitted)
    held_out = outcomes(held, Pipeline(score=fitted.score))
    certify(PROMISE, known, held_out)
    return held_out


def test_the_honest_case_is_certified() -> None:
    """What the other tests spoil works before."""
    certified(examples(300), examples(400, name="c", seed=1))


def test_shuffled_labels() -> None:
    """Without a connection between score and outcome nothing is certified, and the AUROC is named."""
    train, held = examples(300), examples(400, name="c", seed=1)
    for rows in (train, held):
        order = np.random.default_rng(2).permutation(len(rows))
        rows[:] = [replace(row, right=rows[other].right) for row, other in zip(rows, order, strict=True)]
    with pytest.raises(ContractInfeasible, match=r"hardly tells right from wrong here \(AUROC 0\.[45]"):
        certified(train, held)


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_one_class_only(right: float) -> None:
    """All right or all wrong in training: there is nothing to learn from."""
    train = [replace(row, right=right) for row in examples(100)]
    with pytest.raises(ContractInfeasible, match="too little to learn from"):
        fit_score(train)


def test_one_class_only_with_scores_from_elsewhere() -> None:
    """Certifying refuses it too, should somebody come with a score of their own."""
    train = outcomes([replace(row, right=1.0) for row in examples(100)], np.linspace(0, 1, 100))
    held = outcomes(examples(100, name="c"), np.linspace(0, 1, 100))
    with pytest.raises(ContractInfeasible, match="0 of 100 training answers is wrong"):
        certify(PROMISE, train, held)


def test_too_little_data() -> None:
    """Too few calibration labels are refused before anything is tested, with the number that is needed."""
    with pytest.raises(ContractInfeasible, match="cannot be certified with 15 calibration labels"):
        certified(examples(300), examples(15, name="c"))


def test_duplicates_between_the_splits() -> None:
    """A prompt that was trained on proves nothing."""
    train = examples(300)
    with pytest.raises(ContractInfeasible, match="40 prompts are in the training and in the calibration"):
        certified(train, [*train[:40], *examples(300, name="c")])


def test_duplicates_inside_calibration() -> None:
    """The same query twice is not two queries."""
    held = examples(300, name="c")
    with pytest.raises(ContractInfeasible, match="7 calibration prompts are there twice"):
        certified(examples(300), [*held, *held[:7]])


def test_labels_that_are_missing() -> None:
    """A promise about the cloud needs the cloud's answers."""
    train, held = examples(300), examples(300, name="c")
    known, later = (outcomes(rows, np.linspace(0, 1, 300)) for rows in (train, held))
    for text, says in (
        ("quality>=0.9@0.9", "quality of the cloud"),
        ("disagreement<=0.1@0.9", "agreement with"),
    ):
        with pytest.raises(ContractInfeasible, match=says):
            certify(Promise.parse(text), known, later)
    with pytest.raises(ContractInfeasible, match="have no outcome"):
        fit_score([*train[:-1], replace(train[-1], right=None)])


def test_the_split_goes_by_the_prompt() -> None:
    """Whatever the order and however often a prompt comes, it stays on its side, and counts once."""
    rows = examples(400)
    first = split([*rows, *rows[:50]])
    second = split(reversed(rows))
    assert first.duplicates == 50
    assert {e.key for e in first.train} == {e.key for e in second.train}
    assert not {e.key for e in first.train} & {e.key for e in first.calibration}
    assert len(first.train) + len(first.calibration) == 400
    assert 150 < len(first.calibration) < 250
    assert prompt_key("a  b\n") == prompt_key("a b")
