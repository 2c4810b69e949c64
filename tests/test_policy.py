"""The rules of a policy, without a run."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeai import ConfigError, Image, Message, Policy, Reason, Redaction
from edgeai.policy import State, explain
from edgeai.types import Request, Signals

CLOUD = State(has_cloud=True)
REQUEST = Request(messages=(Message("user", "Why?"),))


def signals(score: float | None = 0.5, **values: object) -> Signals:
    known: dict[str, object] = {"n_tokens": 3, "elapsed_s": 1.0, "score": score, **values}
    return Signals(**known)  # type: ignore[arg-type]  # the tests' own keywords


@pytest.mark.parametrize(
    "values",
    [
        {"privacy": "open"},
        {"privacy": "Redact"},
        {"prefer": "both"},
        {"min_score": 1.5},
        {"min_score": -0.1},
        {"deadline_s": 0},
        {"deadline_s": float("inf")},
        {"budget_usd": {"week": 1.0}},
        {"budget_usd": {"day": -1.0}},
        {"when_offline": "wait"},
        {"disclose": "turns"},
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(values: dict[str, object]) -> None:
    """What cannot be kept is a ConfigError when the policy is made."""
    with pytest.raises(ConfigError):
        Policy(**values)  # type: ignore[arg-type]  # the mistakes under test


@given(
    min_score=st.none() | st.floats(0, 1),
    deadline_s=st.none() | st.floats(0.01, 10),
    prefer=st.sampled_from(["device", "cloud"]),
    device_s=st.none() | st.floats(0, 100),
)
def test_local_is_overruled_by_nothing(
    min_score: float | None, deadline_s: float | None, prefer: str, device_s: float | None
) -> None:
    """Whatever else the policy says, a local query is blocked."""
    policy = Policy(min_score=min_score, deadline_s=deadline_s, prefer=prefer)  # type: ignore[arg-type]  # sampled
    state = State(has_cloud=True, device_s=device_s)
    assert policy.blocked(REQUEST, state) is Reason.PRIVATE


def test_an_unfinished_answer_without_a_score_is_not_judged() -> None:
    """While nothing is known yet the answer goes on; at its end a missing score is not confident."""
    policy = Policy(min_score=0.5)
    assert policy.judge(signals(None), CLOUD) is None
    assert policy.judge(signals(None, finished="stop"), CLOUD) is Reason.LOW_CONFIDENCE


def test_the_threshold_itself_is_kept() -> None:
    """Leave below, keep at and above."""
    policy = Policy(min_score=0.5)
    assert policy.judge(signals(0.5), CLOUD) is None
    assert policy.judge(signals(0.499), CLOUD) is Reason.LOW_CONFIDENCE


def test_the_last_moment_leaves_the_cloud_its_time() -> None:
    """Deadline minus what the cloud takes minus 50 ms, never before the call."""
    policy = Policy(deadline_s=4.0)
    assert policy.last_moment_s(State(has_cloud=True, cloud_s=1.0)) == pytest.approx(2.95)
    assert policy.last_moment_s(State(has_cloud=True, cloud_s=9.0)) == 0.0
    assert Policy().last_moment_s(CLOUD) is None


def test_a_device_that_will_make_it_is_not_late() -> None:
    """At the last moment the query leaves only if the rest would pass the deadline, or is unknown."""
    policy, state = Policy(deadline_s=4.0), State(has_cloud=True, cloud_s=2.0)
    assert policy.judge(signals(elapsed_s=2.0, remaining_s=1.0), state) is None
    assert policy.judge(signals(elapsed_s=2.0, remaining_s=2.5), state) is Reason.DEADLINE
    assert policy.judge(signals(elapsed_s=2.0), state) is Reason.DEADLINE
    assert policy.judge(signals(elapsed_s=1.0, remaining_s=9.0), state) is None


def test_images_need_a_side_that_reads_them() -> None:
    """A device without eyes is left at once, one with eyes is not."""
    request = Request(messages=(Message("user", [Image(data=b"")]),))
    policy = Policy(privacy="allow")
    assert policy.route(request, CLOUD) is Reason.UNSUPPORTED
    assert policy.route(request, State(has_cloud=True, device_reads_images=True)) is None


@pytest.mark.parametrize("wanted", [None, *Reason])
@pytest.mark.parametrize("kept", [None, Reason.PRIVATE, Reason.CLOUD_FAILED, Reason.BUDGET])
def test_every_decision_has_a_sentence(wanted: Reason | None, kept: Reason | None) -> None:
    """Whatever led to the answer can be said to a person."""
    if wanted is None and kept is None:
        return
    sentence = explain(wanted, kept, Policy(min_score=0.5, deadline_s=1), signals(0.25), "Broken.")
    assert sentence[0].isupper()
    assert sentence.endswith(".")
    assert ".." not in sentence


def test_a_policy_can_be_copied_and_sent() -> None:
    """Settings objects copy their defaults, and processes send each other rules."""
    rules = Policy(
        privacy="redact",
        budget_usd={"day": 0.5},
        labels={"health": "local"},
        redaction=Redaction(patterns={"ORDER": "ORD-[0-9]+"}),
    )
    assert pickle.loads(pickle.dumps(rules)) == copy.deepcopy(rules) == rules
    with pytest.raises(TypeError):
        copy.deepcopy(rules).budget_usd["day"] = 9.0  # type: ignore[index]  # the mistake under test
