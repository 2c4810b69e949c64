"""Fitting and testing: frozen stages, and labels that no second attempt may test on."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeai.calibrate.fit import Fitting, fit
from edgeai.calibrate.used import Attempt, fresh, mark
from edgeai.monitor.examples import Example, Observation, prompt_key, split
from edgeai.monitor.promise import Promise
from edgeai.monitor.stages import REMOVED
from tests.calibrate.devices import BINDING
from tests.monitor.test_stages import streams

PROMISE = Promise.parse("error<=0.1@0.9")
KEYS = [prompt_key(f"q{n}") for n in range(30)]


def test_the_stages_are_part_of_what_is_certified() -> None:
    """Who leaves early is not kept, at calibration and in training; without stages nobody leaves."""
    examples = streams(400, 1)
    found = fit(examples, PROMISE, BINDING, Fitting(signals=("mean",)))
    proof, futility = found.certificate, found.pipeline.futility
    assert proof is not None
    assert futility is not None
    for part, outcome in (
        (found.train, found.train_outcomes),
        (found.calibration, found.calibration_outcomes),
    ):
        gone = [futility.exit_at(example.seen) is not None for example in part]
        assert 0 < sum(gone) < len(gone)
        assert [score == REMOVED for score in outcome.scores] == gone
    kept = [
        example for example in found.calibration if found.pipeline.effective(example.seen) >= proof.threshold
    ]
    assert (proof.kept, proof.errors) == (len(kept), sum(example.right == 0 for example in kept))
    assert proof.coverage > 0.2
    plain = fit(
        examples, PROMISE, replace(BINDING, weights="v" * 64), Fitting(signals=("mean",), stages=False)
    )
    assert plain.pipeline.futility is None
    assert plain.calibration_outcomes.scores.min() >= 0


def attempt(keys: list[str], promise: str, model: str) -> Attempt:
    examples = tuple(Example(key=key, seen=Observation(features={}), right=1.0) for key in keys)
    return Attempt(
        binding=replace(BINDING, weights=model),
        promise=Promise.parse(promise),
        settings="",
        examples=examples,
    )


keys = st.lists(st.sampled_from(KEYS), min_size=1, unique=True)
tries = st.lists(st.tuples(keys, st.sampled_from(["error<=0.1@0.9", "error<=0.2@0.9"])), max_size=6)


@settings(max_examples=25, deadline=None)
@given(tries, st.uuids())
def test_no_label_is_tested_twice(tried: list[tuple[list[str], str]], model: object) -> None:
    """Whatever is tried in whatever order, two different attempts on a model share no calibration label."""
    tested: dict[str, set[str]] = {}
    for chosen, promise in tried:
        now = attempt(chosen, promise, str(model))
        parts, reused = fresh(now, split(now.examples))
        held = {example.key for example in parts.calibration}
        assert {example.key for example in parts.train} | held == set(chosen)
        assert reused + len(held) == len(split(now.examples).calibration)
        mark(now, sorted(held))
        tested[now.identity] = held
    for name, held in tested.items():
        others = set().union(*(labels for other, labels in tested.items() if other != name))
        assert not held & others
