"""The state machine, fed by hand: every path of a query, in microseconds."""

from collections.abc import Sequence

import pytest

from edgeai.cloud import CloudEnd, CloudText
from edgeai.engines.generation import Finished
from edgeai.errors import (
    BothFailed,
    BudgetExceeded,
    Cancelled,
    CloudProtocol,
    CloudUnavailable,
    ContextOverflow,
    EngineClosed,
    EngineCrashed,
    LedgerError,
    PrivacyViolation,
)
from edgeai.monitor import Monitor, TimeModel
from edgeai.outcome import Labels
from edgeai.policy import Policy, State
from edgeai.run import Run
from edgeai.steps import Action, Cancel, Fail, Happening, Refused, Start, Stop, Tick
from edgeai.testing import fake_token
from edgeai.types import Answer, Delta, Done, Image, Message, Reason, Replaced, Request, Text, Usage

OPEN = Policy(privacy="allow", min_score=0.5)
QUESTION = (Message("user", "Why?"),)
LABELS = Labels(device_model="small", engine="fake", cloud_model="big", endpoint="https://cloud.invalid")
END = Finished(reason="stop", n_prompt=3)
CLOUD_END = CloudEnd(finish_reason="stop", usage=Usage(prompt_tokens=3, completion_tokens=2))
DOWN = CloudUnavailable("No connection")


def a_run(
    policy: Policy = OPEN,
    *,
    hold: int | None = None,
    has_cloud: bool = True,
    messages: Sequence[Message] = QUESTION,
    state: State | None = None,
    whole: bool = False,
) -> Run:
    request = Request(messages=tuple(messages), hold=hold)
    monitor = Monitor(TimeModel(), max_tokens=request.max_tokens)
    return Run(request, policy, monitor, state or State(has_cloud=has_cloud), LABELS, whole=whole)


def play(run: Run, *happenings: Happening, seconds: float = 0.0) -> list[Action]:
    """All actions of a run that is started and fed these, ``seconds`` apart."""
    now = 0.0
    actions = run.start(now)
    for happening in happenings:
        now += seconds
        actions += run.feed(happening, now)
    return actions


def sure(text: str) -> Happening:
    return fake_token(text, 0.9)


def unsure(text: str) -> Happening:
    return fake_token(text, 0.1)


def answer_of(actions: list[Action]) -> Answer:
    """The answer of the one Done, which is the last action."""
    done = actions[-1]
    assert isinstance(done, Done)
    assert sum(isinstance(action, Done | Fail) for action in actions) == 1
    return done.answer


def error_of(actions: list[Action]) -> Exception:
    failed = actions[-1]
    assert isinstance(failed, Fail)
    return failed.error


def shown(actions: list[Action]) -> list[Action]:
    return [action for action in actions if isinstance(action, Delta | Replaced)]


def test_a_sure_answer_stays_on_the_device() -> None:
    """Above the threshold nothing but the device takes part."""
    actions = play(a_run(), sure("Be"), sure("cause."), END)
    assert actions[:-1] == [Start("device"), Delta("Be", "device"), Delta("cause.", "device")]
    answer = answer_of(actions)
    assert (answer.text, answer.source, answer.reason) == ("Because.", "device", Reason.CONFIDENT)
    assert (answer.confidence, answer.certified, answer.cost_usd) == (None, False, 0.0)
    assert answer.score == pytest.approx(0.9)


def test_an_unsure_answer_is_replaced_by_the_clouds() -> None:
    """Text is withdrawn with the cloud's first piece in hand, and the device is cancelled last."""
    actions = play(a_run(), sure("Be"), unsure("lieve"), CloudText("It"), CloudText(" is."), CLOUD_END)
    assert actions[:-1] == [
        Start("device"),
        Delta("Be", "device"),
        Start("cloud"),
        Replaced(Reason.LOW_CONFIDENCE, "cloud"),
        Delta("It", "cloud"),
        Delta(" is.", "cloud"),
        Cancel("device"),
    ]
    answer = answer_of(actions)
    assert (answer.text, answer.source, answer.reason) == ("It is.", "cloud", Reason.LOW_CONFIDENCE)
    assert "0.10, below 0.50" in answer.explanation


def test_nothing_is_withdrawn_when_nothing_was_shown() -> None:
    """An answer that is unsure from its first token leaves without a Replaced."""
    actions = play(a_run(), unsure("x"), CloudText("It"), CLOUD_END)
    assert shown(actions) == [Delta("It", "cloud")]


def test_without_a_threshold_nothing_is_judged() -> None:
    """An uncalibrated score never escalates by itself."""
    answer = answer_of(play(a_run(Policy(privacy="allow")), unsure("x"), END))
    assert (answer.source, answer.reason) == ("device", Reason.UNJUDGED)


def test_privacy_beats_everything() -> None:
    """With privacy="local" an unsure answer, a full context and a deadline all stay."""
    policy = Policy(min_score=0.9, deadline_s=0.001, prefer="cloud")
    full = Finished(reason="length", n_prompt=3, context_full=True)
    actions = play(a_run(policy), unsure("x"), Tick(), full, seconds=1.0)
    assert Start("cloud") not in actions
    assert answer_of(actions).reason is Reason.PRIVATE


def test_a_private_message_stays_under_an_open_policy() -> None:
    """One private message anywhere in the conversation keeps the query on the device."""
    messages = [Message("system", "secret", private=True), Message("user", "Why?")]
    actions = play(a_run(messages=messages), unsure("x"), END)
    assert Start("cloud") not in actions
    assert answer_of(actions).reason is Reason.PRIVATE


def test_no_cloud_is_a_reason_to_stay() -> None:
    """Wanting to leave without a cloud keeps the answer, and says so."""
    answer = answer_of(play(a_run(has_cloud=False), unsure("x"), END))
    assert (answer.text, answer.reason) == ("x", Reason.NO_CLOUD)
    assert "no cloud is configured" in answer.explanation


def test_the_cloud_fails_before_its_first_token() -> None:
    """The device's answer is finished; nothing was withdrawn."""
    actions = play(a_run(), sure("Be"), unsure("x"), DOWN, sure("y"), END)
    assert shown(actions) == [Delta("Be", "device"), Delta("x", "device"), Delta("y", "device")]
    answer = answer_of(actions)
    assert (answer.text, answer.reason, answer.certified) == ("Bexy", Reason.CLOUD_FAILED, False)
    assert "No connection" in answer.explanation


def test_the_cloud_dies_midway() -> None:
    """Device → cloud → device: the cloud's text is withdrawn in favour of the device's whole answer."""
    actions = play(a_run(), sure("A"), unsure("b"), CloudText("Z"), DOWN, sure("c"), END)
    assert shown(actions) == [
        Delta("A", "device"),
        Replaced(Reason.LOW_CONFIDENCE, "cloud"),
        Delta("Z", "cloud"),
        Replaced(Reason.CLOUD_FAILED, "device"),
        Delta("Ab", "device"),
        Delta("c", "device"),
    ]
    assert answer_of(actions).text == "Abc"


def test_the_cloud_dies_after_the_device_has_ended() -> None:
    """A finished answer is given back at once."""
    policy = Policy(privacy="allow", min_score=0.95)
    actions = play(a_run(policy, hold=None), END, CloudText("Z"), DOWN)
    assert shown(actions) == [
        Delta("Z", "cloud"),
        Replaced(Reason.CLOUD_FAILED, "device"),
        Delta("", "device"),
    ]
    assert answer_of(actions).reason is Reason.CLOUD_FAILED


def test_an_empty_cloud_answer_is_a_failure() -> None:
    """A cloud that ends without a word does not replace the device's answer."""
    actions = play(a_run(), unsure("x"), CLOUD_END, END)
    assert answer_of(actions).text == "x"


def test_while_the_cloud_works_the_device_is_paused() -> None:
    """Its tokens are not listened to, and its side is not cancelled before the cloud has finished."""
    run = a_run()
    actions = play(run, unsure("x"))
    assert not run.listening
    assert Cancel("device") not in actions


def test_an_engine_error_leaves() -> None:
    """The cloud takes over, also after text was shown."""
    crash = EngineCrashed("The engine died")
    actions = play(a_run(), sure("A"), crash, CloudText("Z"), CLOUD_END)
    assert answer_of(actions).reason is Reason.ENGINE_ERROR
    assert Replaced(Reason.ENGINE_ERROR, "cloud") in actions


def test_an_overflow_leaves_by_its_own_name() -> None:
    """A prompt that is too long for the device goes to the cloud as context_overflow."""
    overflow = ContextOverflow("too long", n_prompt=9, n_ctx=3)
    run = a_run(Policy(privacy="allow", when_full="escalate"))
    assert answer_of(play(run, overflow, CloudText("Z"), CLOUD_END)).reason is Reason.CONTEXT_OVERFLOW
    assert play(a_run(), overflow)[-1] == Fail(overflow)


def test_a_private_engine_error_is_raised_plain() -> None:
    """With nowhere to go the engine's own error is raised, not a group."""
    crash = EngineCrashed("The engine died")
    assert error_of(play(a_run(Policy()), sure("A"), crash)) is crash


def test_both_fail() -> None:
    """The error holds both causes, the device's first, in whichever order they came."""
    crash = EngineCrashed("The engine died")
    first = error_of(play(a_run(), crash, DOWN))
    later = error_of(play(a_run(), unsure("x"), DOWN, crash))
    for error in (first, later):
        assert isinstance(error, BothFailed)
        assert error.exceptions == (crash, DOWN)


def test_images_leave_before_anything_is_generated() -> None:
    """What the device cannot read goes to the cloud, or is an error; it is never dropped."""
    picture = [Message("user", [Text("What is this?"), Image(data=b"png")])]
    actions = play(a_run(messages=picture), CloudText("A cat"), CLOUD_END)
    assert actions[0] == Start("cloud")
    assert answer_of(actions).reason is Reason.UNSUPPORTED
    assert "reads no images" in str(error_of(play(a_run(Policy(), messages=picture))))


def test_a_full_context_is_too_long() -> None:
    """An answer cut off by the context's end leaves."""
    full = Finished(reason="length", n_prompt=3, context_full=True)
    actions = play(a_run(Policy(privacy="allow")), sure("A"), full, CloudText("Z"), CLOUD_END)
    assert answer_of(actions).reason is Reason.TOO_LONG


def test_the_length_limit_is_not_too_long() -> None:
    """max_tokens is the caller's own wish and no reason to leave."""
    limit = Finished(reason="length", n_prompt=3)
    answer = answer_of(play(a_run(), sure("A"), limit))
    assert (answer.source, answer.finish_reason) == ("device", "length")


def test_a_policy_may_prefer_the_cloud() -> None:
    """The device is then the way back, and is started only when it is needed."""
    policy = Policy(privacy="allow", prefer="cloud")
    assert play(a_run(policy)) == [Start("cloud")]
    actions = play(a_run(policy), DOWN, unsure("x"), END)
    assert actions[:2] == [Start("cloud"), Start("device")]
    assert answer_of(actions).reason is Reason.CLOUD_FAILED


def test_a_preferred_cloud_that_is_forbidden_says_so() -> None:
    """The reason is what kept the query, not that nothing judged it."""
    policy = Policy(privacy="allow", prefer="cloud")
    private = [Message("user", "Why?", private=True)]
    assert answer_of(play(a_run(policy, messages=private), sure("x"), END)).reason is Reason.PRIVATE
    assert answer_of(play(a_run(policy, has_cloud=False), sure("x"), END)).reason is Reason.NO_CLOUD


# deadlines


def test_a_device_that_is_known_to_be_too_slow_is_not_started() -> None:
    """When the prediction passes the deadline and the cloud's does not, the query starts in the cloud."""
    policy = Policy(privacy="allow", deadline_s=2.0)
    late = State(has_cloud=True, device_s=5.0, cloud_s=1.0)
    assert play(a_run(policy, state=late)) == [Start("cloud")]
    hopeless = State(has_cloud=True, device_s=5.0, cloud_s=4.0)
    assert play(a_run(policy, state=hopeless)) == [Start("device")]


def test_at_the_last_moment_the_cloud_is_asked_in_parallel() -> None:
    """The device goes on; the first complete answer wins, and the loser is cancelled."""
    policy = Policy(privacy="allow", deadline_s=4.0)
    state = State(has_cloud=True, cloud_s=2.0)
    run = a_run(policy, state=state)
    assert run.start(0.0) == [Start("device")]
    assert run.wait_s(0.0) == pytest.approx(1.95)
    assert run.feed(Tick(), 1.0) == []
    assert run.feed(Tick(), 1.96) == [Start("cloud")]
    assert run.listening
    assert run.feed(sure("Quick"), 2.0) == [Delta("Quick", "device")]
    actions = run.feed(END, 2.1)
    assert actions[0] == Cancel("cloud")
    assert answer_of(actions).source == "device"


def test_the_cloud_wins_the_race() -> None:
    """The cloud's first piece replaces what the slow device has shown."""
    policy = Policy(privacy="allow", deadline_s=4.0)
    run = a_run(policy, state=State(has_cloud=True, cloud_s=2.0))
    run.start(0.0)
    run.feed(sure("Slow"), 1.0)
    assert run.feed(Tick(), 2.0) == [Start("cloud")]
    assert run.feed(CloudText("Fast"), 2.5) == [
        Replaced(Reason.DEADLINE, "cloud"),
        Delta("Fast", "cloud"),
    ]
    assert answer_of(run.feed(CLOUD_END, 2.6)).reason is Reason.DEADLINE


def test_a_hedge_races_and_the_first_complete_answer_wins() -> None:
    """Past the moment given the cloud is asked in parallel; the device goes on, and may still win."""
    state = State(has_cloud=True, hedge_s=1.0)
    for device_wins in (True, False):
        run = a_run(Policy(privacy="allow", hedge=True), state=state)
        run.start(0.0)
        assert run.feed(sure("Slow"), 0.5) == [Delta("Slow", "device")]
        assert run.wait_s(0.5) == pytest.approx(0.5)
        assert run.feed(Tick(), 1.1) == [Start("cloud")]
        assert run.hedged
        assert run.listening
        if device_wins:
            assert answer_of(run.feed(END, 1.2)).source == "device"
            continue
        run.feed(CloudText("Fast"), 1.2)
        answer = answer_of(run.feed(CLOUD_END, 1.3))
        assert (answer.source, answer.reason) == ("cloud", Reason.HEDGE)


def test_without_the_wish_nothing_is_hedged() -> None:
    """However slow the device is."""
    run = a_run(Policy(privacy="allow"), state=State(has_cloud=True))
    run.start(0.0)
    run.feed(sure("Slow"), 0.5)
    assert run.wait_s(0.5) is None
    assert run.feed(Tick(), 100.0) == []


# hold


def test_held_text_leaves_without_a_trace() -> None:
    """With hold=n, leaving among the first n tokens shows nothing of the device."""
    actions = play(a_run(hold=3), sure("A"), unsure("b"), *[CloudText(t) for t in "XYZ"], CLOUD_END)
    assert shown(actions) == [Delta("XYZ", "cloud")]


def test_final_text_wins_the_race() -> None:
    """A device whose text became final while the cloud was asked is not replaced."""
    policy = Policy(privacy="allow", deadline_s=4.0)
    run = a_run(policy, hold=1, state=State(has_cloud=True, cloud_s=2.0))
    run.start(0.0)
    assert run.feed(Tick(), 2.0) == [Start("cloud")]
    assert run.feed(sure("Slow"), 2.1) == [Delta("Slow", "device")]
    assert run.feed(CloudText("Fast"), 2.5) == [Cancel("cloud")]
    assert answer_of(run.feed(END, 2.6)).reason is Reason.FINAL


def test_after_the_hold_the_text_is_final() -> None:
    """The judge is silent and an engine error is raised."""
    actions = play(a_run(hold=2), sure("A"), sure("B"), unsure("c"), END)
    assert shown(actions) == [Delta("AB", "device"), Delta("c", "device")]
    assert answer_of(actions).reason is Reason.FINAL
    crash = EngineCrashed("The engine died")
    assert error_of(play(a_run(hold=1), sure("A"), crash)) is crash


def test_a_cloud_that_fails_after_its_text_became_final_is_an_error() -> None:
    """Shown text cannot be withdrawn, so the failure is raised."""
    actions = play(a_run(hold=1), unsure("x"), CloudText("Z"), DOWN)
    assert error_of(actions) is DOWN


def test_a_cloud_that_fails_within_the_hold_is_replaced_silently() -> None:
    """Nothing of the cloud was shown, so the device's answer takes its place."""
    actions = play(a_run(hold=2), unsure("x"), CloudText("Z"), DOWN, END)
    assert shown(actions) == [Delta("x", "device")]


def test_an_answer_that_ends_within_the_hold_was_judged() -> None:
    """Nothing became final before its last token, so it is confident."""
    assert answer_of(play(a_run(hold=9), sure("A"), END)).reason is Reason.CONFIDENT


# ends


def test_a_stopped_query_gives_what_was_shown() -> None:
    """Both sides are cancelled and the answer says so."""
    actions = play(a_run(), sure("A"), Stop())
    assert actions[-2] == Cancel("device")
    answer = answer_of(actions)
    assert (answer.text, answer.finish_reason, answer.reason) == ("A", "cancelled", Reason.CANCELLED)


def test_a_closed_engine_is_no_reason_to_leave() -> None:
    """Closing the Edge while it answers ends the query; nothing is sent for it."""
    actions = play(a_run(), sure("A"), Cancelled("The engine was closed"))
    assert Start("cloud") not in actions
    assert isinstance(error_of(actions), Cancelled)


def test_nothing_happens_after_the_end() -> None:
    """Whatever still arrives is ignored."""
    run = a_run()
    play(run, sure("A"), END)
    late: list[Happening] = [sure("B"), END, CloudText("Z"), CLOUD_END, DOWN, Tick(), Stop()]
    assert [run.feed(happening, 9.0) for happening in late] == [[]] * len(late)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Refused(BudgetExceeded("spent")), Reason.BUDGET),
        (Refused(PrivacyViolation("private")), Reason.PRIVATE),
        (Refused(LedgerError("full")), Reason.CLOUD_FAILED),
        (CloudProtocol("odd"), Reason.CLOUD_FAILED),
    ],
)
def test_what_stops_the_cloud_is_the_reason_to_stay(error: Happening, reason: Reason) -> None:
    """Each failure on the way out has its name in the answer."""
    assert answer_of(play(a_run(), unsure("x"), error, END)).reason is reason


def test_offline_may_be_an_error() -> None:
    """when_offline="error" raises instead of keeping an answer below the threshold."""
    policy = Policy(privacy="allow", min_score=0.5, when_offline="error")
    assert error_of(play(a_run(policy), unsure("x"), DOWN)) is DOWN
    refused = CloudProtocol("odd")
    assert answer_of(play(a_run(policy), unsure("x"), refused, END)).text == "x"


def test_a_whole_answer_is_shown_at_once() -> None:
    """For labels and JSON nothing is shown before the end."""
    actions = play(a_run(whole=True), sure("{"), sure("}"), END)
    assert shown(actions) == [Delta("{}", "device")]


def test_a_closed_engine_is_no_reason_to_ask_the_cloud() -> None:
    """The app has closed it: nothing leaves the device, and asking again is idle."""
    closed = EngineClosed("The engine is closed")
    actions = play(a_run(), closed)
    assert error_of(actions) is closed
    assert Start("cloud") not in actions
    assert not closed.retryable
    assert Start("cloud") in play(a_run(), EngineCrashed("It died"))
