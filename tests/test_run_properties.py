"""What holds for a run under every interleaving of tokens, ends, errors and the clock."""

from dataclasses import dataclass
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeai.cloud import CloudEnd, CloudText
from edgeai.engines.generation import Finished
from edgeai.errors import (
    BothFailed,
    BudgetExceeded,
    Cancelled,
    CloudTimeout,
    CloudUnavailable,
    ContextOverflow,
    EdgeError,
    EngineCrashed,
    LedgerError,
)
from edgeai.monitor import Monitor, TimeModel
from edgeai.outcome import Labels, Side
from edgeai.policy import Policy, State
from edgeai.run import Run
from edgeai.steps import Action, Cancel, Fail, Happening, Refused, Start, Stop, Tick
from edgeai.testing import fake_token
from edgeai.types import Delta, Done, Message, Reason, Replaced, Request

DEVICE_ENDS: list[Happening] = [
    Finished(reason="stop", n_prompt=3),
    Finished(reason="length", n_prompt=3, context_full=True),
    EngineCrashed("crash"),
    ContextOverflow("overflow"),
    Cancelled("closed"),
]
CLOUD_ENDS: list[Happening] = [
    CloudEnd(finish_reason="stop"),
    CloudUnavailable("down"),
    CloudTimeout("slow"),
    Refused(BudgetExceeded("spent")),
    Refused(LedgerError("full")),
]

policies = st.builds(
    Policy,
    privacy=st.sampled_from(["local", "allow"]),
    prefer=st.sampled_from(["device", "cloud"]),
    min_score=st.none() | st.sampled_from([0.0, 0.5, 1.0]),
    deadline_s=st.none() | st.sampled_from([0.01, 1.0, 5.0]),
    when_offline=st.sampled_from(["keep", "error"]),
)
tokens = st.builds(
    fake_token,
    st.sampled_from(["a", "b", ""]),
    st.sampled_from([0.05, 0.5, 0.99]),
    st.sampled_from([0.0, 0.4]),
)
device_scripts = st.tuples(st.lists(tokens, max_size=6), st.sampled_from(DEVICE_ENDS))
cloud_scripts = st.tuples(
    st.lists(st.builds(CloudText, st.sampled_from("xyz")), max_size=4), st.sampled_from(CLOUD_ENDS)
)


@dataclass
class Play:
    """One played query: the run, its actions in order, and whether someone stopped it."""

    run: Run
    actions: list[Action]
    stopped: bool


@st.composite
def plays(draw: st.DrawFn, *, whole: bool = False) -> Play:
    """A run fed two scripts in a random interleaving, each side only after it was started."""
    policy = draw(policies)
    private = draw(st.booleans())
    request = Request(
        messages=(Message("user", "Why?", private=private),), hold=draw(st.sampled_from([None, 0, 1, 2, 9]))
    )
    state = State(
        has_cloud=draw(st.booleans()), device_s=draw(st.none() | st.just(3.0)), cloud_s=draw(st.just(0.5))
    )
    labels = Labels(device_model="small", engine="fake", cloud_model="big")
    run = Run(request, policy, Monitor(TimeModel(), max_tokens=9), state, labels, whole=whole)
    device, cloud = draw(device_scripts), draw(cloud_scripts)
    waiting = {"device": [*device[0], device[1]], "cloud": [*cloud[0], cloud[1]]}
    now, stopped = 0.0, False
    actions = run.start(now)
    while not run.done:
        started = {action.side for action in actions if isinstance(action, Start)}
        sides = [s for s in ("device", "cloud") if s in started and waiting[s]]
        sides = [s for s in sides if s == "cloud" or run.listening]
        choice = draw(st.sampled_from([*sides * 4, "tick", "stop"] if sides else ["stop"]))
        now += draw(st.sampled_from([0.0, 0.1, 1.0]))
        stopped = stopped or choice == "stop"
        happening: Happening = Tick() if choice == "tick" else Stop()
        if choice in waiting:
            happening = waiting[choice].pop(0)
        actions += run.feed(happening, now)
    return Play(run=run, actions=actions, stopped=stopped)


def shown_text(actions: list[Action]) -> str:
    """What a reader who follows the events has on the screen."""
    text = ""
    for action in actions:
        if isinstance(action, Replaced):
            text = ""
        elif isinstance(action, Delta):
            text += action.text
    return text


@given(plays())
def test_exactly_one_end_and_nothing_after_it(play: Play) -> None:
    """A query ends once, by a Done or a Fail, and that is its last action."""
    ends = [action for action in play.actions if isinstance(action, Done | Fail)]
    assert len(ends) == 1
    assert play.actions[-1] is ends[0]


@given(plays())
def test_private_never_reaches_the_cloud(play: Play) -> None:
    """No private query starts the cloud's side, whatever happens to the device."""
    private = play.run.policy.privacy == "local" or play.run.request.messages[0].private
    if private or not play.run.state.has_cloud:
        assert Start("cloud") not in play.actions


@given(plays())
def test_every_replaced_is_followed_by_a_delta_of_its_source(play: Play) -> None:
    """Text is withdrawn only with its successor in hand."""
    for action, after in pairwise(play.actions):
        if isinstance(action, Replaced):
            assert isinstance(after, Delta)
            assert after.source == action.source


@given(plays())
def test_the_shown_text_is_the_answers_text(play: Play) -> None:
    """A reader of the events ends with exactly the answer."""
    last = play.actions[-1]
    if isinstance(last, Done):
        assert shown_text(play.actions) == last.answer.text


@given(plays())
def test_at_most_device_cloud_device(play: Play) -> None:
    """Two changes of mind at most, and under a hold none."""
    sources = [action.source for action in play.actions if isinstance(action, Delta)]
    changes = [a for a, b in pairwise(sources) if a != b]
    assert len(changes) <= 2
    if play.run.request.hold:
        assert not any(isinstance(action, Replaced) for action in play.actions)
        assert not changes


@given(plays())
def test_an_available_answer_is_never_lost(play: Play) -> None:
    """A query fails only if the device failed, or when its policy or a final text asks for the error."""
    last = play.actions[-1]
    if not isinstance(last, Fail):
        return
    run = play.run
    asked_for = run.policy.when_offline == "error" and isinstance(last.error, CloudUnavailable | CloudTimeout)
    final = bool(run.request.hold) and any(isinstance(action, Delta) for action in play.actions)
    assert run.device.side is Side.FAILED or asked_for or final


@given(plays())
def test_both_failed_holds_both_causes(play: Play) -> None:
    """The group is raised only when both sides failed."""
    last = play.actions[-1]
    if isinstance(last, Fail) and isinstance(last.error, BothFailed):
        assert play.run.device.side is Side.FAILED
        assert play.run.cloud.side is Side.FAILED
        assert len(last.error.exceptions) == 2


@given(plays())
def test_no_side_is_left_running(play: Play) -> None:
    """At the end every started side has ended, failed or been cancelled."""
    for side, track in (("device", play.run.device), ("cloud", play.run.cloud)):
        if track.side is Side.RUNNING:
            assert Cancel("device" if side == "device" else "cloud") in play.actions


@given(plays())
def test_the_answer_explains_itself(play: Play) -> None:
    """Every answer has a reason that fits its source, and a sentence."""
    last = play.actions[-1]
    if isinstance(last, Done):
        stays = {Reason.CONFIDENT, Reason.UNJUDGED, Reason.FINAL, Reason.PRIVATE, Reason.NO_CLOUD}
        if last.answer.reason in stays:
            assert last.answer.source == "device"
        if play.stopped:
            assert last.answer.reason is Reason.CANCELLED
        assert last.answer.explanation.endswith(".")
        assert not last.answer.certified
        assert last.answer.confidence is None


@given(plays(whole=True))
def test_a_whole_answer_is_one_delta_at_most(play: Play) -> None:
    """Labels and JSON are shown complete, and never withdrawn."""
    assert sum(isinstance(action, Delta) for action in play.actions) <= 1
    assert not any(isinstance(action, Replaced) for action in play.actions)


@settings(max_examples=50)
@given(st.sampled_from([*DEVICE_ENDS, *CLOUD_ENDS]))
def test_ends_before_a_start_do_not_break_it(happening: Happening) -> None:
    """Errors are values here: nothing is raised out of the machine."""
    run = Run(
        Request(messages=(Message("user", "Why?"),)),
        Policy(privacy="allow", min_score=0.5),
        Monitor(TimeModel(), max_tokens=9),
        State(has_cloud=True),
        Labels(device_model="small", engine="fake"),
    )
    run.start(0.0)
    actions = run.feed(happening, 1.0)
    assert all(not isinstance(action, EdgeError) for action in actions)
