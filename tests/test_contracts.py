"""Contracts at work in an Edge: what stays, what leaves, and what is certified."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeai import CloudUnavailable, ConfigError, Done, Edge, Policy, Reason
from edgeai.drive import Stream
from edgeai.engines import Generation, OnState
from edgeai.engines.generation import Finished
from edgeai.errors import ContractInvalid
from edgeai.ledger import Ledger
from edgeai.monitor.contract import Contract, save
from edgeai.monitor.probe import pack
from edgeai.monitor.score import Score
from edgeai.monitor.stages import Router
from edgeai.monitor.watch import label_observation
from edgeai.observe import observe
from edgeai.testing import FakeCloud, FakeEngine, fake_token
from edgeai.types import LabelScores, Priority, Request, Token
from tests.promises import CERTIFICATE, column, contract

QUESTION = "What is it?"


def made(change: Callable[[Contract], Contract] = lambda made: made, **parts: object) -> Contract:
    """A contract that fits the fake engine and a plain question."""
    with Edge(engine=FakeEngine(), ledger=False) as edge:
        return change(contract(observe(edge, QUESTION).binding, **parts))  # type: ignore[arg-type]  # tests' own


def opened(
    probability: float = 0.9,
    *,
    cloud: FakeCloud | None = None,
    ledger: bool | Path = False,
    **rules: Any,  # noqa: ANN401  # a policy's own
) -> Edge:
    """An Edge on a fake engine that may leave if there is a cloud."""
    rules = {"privacy": "allow", "audit": 0, "contract": made(), **rules}
    engine = FakeEngine("It is a test.", probability=probability)
    return Edge(engine=engine, cloud=cloud, policy=Policy(**rules), ledger=ledger)


def test_a_sure_answer_is_kept_and_certified() -> None:
    """With its calibrated probability, the contract's name, and the promise in words."""
    with opened(cloud=FakeCloud()) as edge:
        answer = edge.ask(QUESTION)
    assert (answer.source, answer.reason, answer.certified) == ("device", Reason.CONFIDENT, True)
    assert answer.confidence == answer.score == pytest.approx(0.857, abs=0.01)
    assert answer.score_name == "tests' own"
    assert answer.contract is not None
    assert len(answer.contract) == 64
    assert (
        "Certified: of the answers kept on the device a share of at most 0.1 is wrong" in answer.explanation
    )


def test_an_unsure_answer_leaves() -> None:
    """The cloud's answer is not certified, and the device's score tells why."""
    with opened(0.3, cloud=FakeCloud("Cloud.")) as edge:
        answer = edge.ask(QUESTION)
    assert (answer.source, answer.reason, answer.certified) == ("cloud", Reason.LOW_CONFIDENCE, False)
    assert answer.confidence is None
    assert "scored 0.40, below 0.70" in answer.explanation


def test_nothing_is_shown_before_it_is_judged() -> None:
    """The whole answer is one Delta; no Replaced can come."""
    with opened(0.3, cloud=FakeCloud("Cloud says.")) as edge:
        events = list(edge.stream(QUESTION))
    assert [type(event).__name__ for event in events] == ["Delta", "Done"]
    with opened(0.9, cloud=FakeCloud("Cloud.")) as edge:
        events = list(edge.stream(QUESTION))
    assert [type(event).__name__ for event in events] == ["Delta", "Done"]


@pytest.mark.parametrize("hold", [0, 2])
def test_a_smaller_hold_certifies_nothing(hold: int) -> None:
    """Who shows text before it is judged gets the text, and the reason in words."""
    with opened() as edge:
        events = list(edge.stream(QUESTION, hold=hold))
    done = events[-1]
    assert isinstance(done, Done)
    assert len(events) > 2
    assert not done.answer.certified
    assert "Not certified: it was shown before it was judged" in done.answer.explanation


@pytest.mark.parametrize("error", [CloudUnavailable("down"), None])
def test_without_a_cloud_the_answer_below_the_threshold_is_given_uncertified(
    error: CloudUnavailable | None,
) -> None:
    """No answer is lost: the device's comes, with what went wrong and what it is worth."""
    cloud = None if error is None else FakeCloud(error=error)
    with opened(0.3, cloud=cloud) as edge:
        answer = edge.ask(QUESTION)
    assert (answer.source, answer.certified) == ("device", False)
    assert answer.text == "It is a test."
    assert answer.reason == (Reason.NO_CLOUD if cloud is None else Reason.CLOUD_FAILED)
    assert answer.confidence == pytest.approx(0.4, abs=0.01)
    assert "Not certified: the contract would not keep it" in answer.explanation


def test_futility_leaves_at_its_checkpoint() -> None:
    """The cloud is asked after four tokens, and the engine makes no more."""
    text = "word " * 40
    engine, cloud = FakeEngine(text, probability=0.05), FakeCloud("Cloud.", delay_s=0.05)
    policy = Policy(privacy="allow", contract=made(checkpoints=(4,)), audit=0)
    with Edge(engine=engine, cloud=cloud, policy=policy, ledger=False) as edge:
        call = edge._session.question(QUESTION, {})
        answer = Stream(call).answer()
    assert (answer.source, answer.reason) == ("cloud", Reason.LOW_CONFIDENCE)
    assert "the first 4 tokens left little hope" in answer.explanation
    assert call.run.monitor.n_tokens == 4


class Counting(FakeEngine):
    """Keeps its last generation."""

    def stream(self, request: Request) -> Generation:
        self.last = super().stream(request)
        return self.last


def test_an_early_exit_saves_the_rest() -> None:
    """While the cloud answers the device makes nothing, and goes on only if the cloud fails."""
    policy = Policy(privacy="allow", contract=made(checkpoints=(4,)), audit=0)
    engine = Counting("word " * 40, probability=0.05, delay_s=0.005)
    with Edge(engine=engine, cloud=FakeCloud("Cloud.", delay_s=0.2), policy=policy, ledger=False) as edge:
        assert edge.ask(QUESTION).source == "cloud"
    made_beyond = len([item for item in engine.last.take() if isinstance(item, Token)])
    assert made_beyond <= 6
    broken = FakeCloud(error=CloudUnavailable("down"))
    with Edge(engine=engine, cloud=broken, policy=policy, ledger=False) as edge:
        assert edge.ask(QUESTION).text == "word " * 40


class Recovers(FakeEngine):
    """Its first word is unlikely, the other 59 are sure."""

    def stream(self, request: Request) -> Generation:
        generation = Generation()
        for number in range(60):
            generation.put(fake_token("word ", 0.999 if number else 0.05, number=number))
        generation.finish(Finished(reason="stop", n_prompt=1))
        return generation


def test_what_futility_sent_away_is_never_kept() -> None:
    """Where it cannot leave it is answered, uncertified, even if its score recovers."""
    policy = Policy(contract=made(checkpoints=(1,)))
    with Edge(engine=Recovers(), policy=policy, ledger=False) as edge:
        answer = edge.ask(QUESTION)
    assert answer.score is not None
    assert answer.score > CERTIFICATE.threshold
    assert (answer.source, answer.certified) == ("device", False)


def test_the_router_sends_away_before_anything_is_generated() -> None:
    """The engine is not even asked."""
    zeros = pack(np.zeros(4, np.float32))
    long = Router(
        intercept=0.0,
        columns=(column("prompt_log_length", mean=3.0),),
        idf=zeros,
        words=zeros,
        threshold=0.0,
    )
    engine = FakeEngine(probability=0.9)
    policy = Policy(privacy="allow", contract=made(router=long), audit=0)
    with Edge(engine=engine, cloud=FakeCloud("Cloud."), policy=policy, ledger=False) as edge:
        asked = edge.ask("word " * 40)
        assert (asked.source, asked.reason) == ("cloud", Reason.ROUTED)
        assert engine.requests == []
        assert edge.ask("Hi").certified


@pytest.mark.parametrize(
    ("options", "word"),
    [({"temperature": 0.5}, "temperature"), ({"max_tokens": 8}, "tokens"), ({"task": "x"}, "task")],
)
def test_another_call_than_the_calibrated_one_is_not_certified(options: dict[str, object], word: str) -> None:
    """Each difference is named; there is no confidence, no threshold, and nothing leaves."""
    cloud = FakeCloud()
    with opened(0.3, cloud=cloud) as edge:
        answer = edge.ask(QUESTION, **options)  # type: ignore[arg-type]  # they vary
    assert (answer.source, answer.certified, answer.confidence, answer.contract) == (
        "device", False, None, None,
    )  # fmt: skip
    assert "Not certified: it was calibrated for" in answer.explanation
    assert word in answer.explanation
    assert cloud.received == []


def test_a_mismatch_may_escalate_instead() -> None:
    """`on_mismatch="escalate"` asks the cloud, and says why."""
    with opened(cloud=FakeCloud("Cloud."), on_mismatch="escalate") as edge:
        answer = edge.ask(QUESTION, temperature=0.5)
    assert (answer.source, answer.reason) == ("cloud", Reason.UNCERTIFIED)


def test_other_weights_and_methods_do_not_match() -> None:
    """The hash of the model is compared, and the method."""
    other = made(lambda c: replace(c, binding=replace(c.binding, weights="1" * 64)))
    with opened(contract=other) as edge:
        assert "a model file with the hash" in edge.ask(QUESTION).explanation
    with opened() as edge:
        assert "the method" in edge.choose(QUESTION, ["a", "b"]).answer.explanation


def test_a_file_is_read_and_checked_when_the_edge_is_made(tmp_path: Path) -> None:
    """A sound one certifies; a missing or changed one is refused at once."""
    path = tmp_path / "support.contract.json"
    with pytest.raises(ContractInvalid):
        opened(contract=path)
    save(made(), path)
    with opened(contract=str(path)) as edge:
        assert edge.ask(QUESTION).certified
    path.write_text(path.read_text("utf-8").replace("0.7", "0.1"), "utf-8")
    with pytest.raises(ContractInvalid, match="changed after"):
        opened(contract=path)
    with Edge(engine=FakeEngine(), ledger=False) as edge, pytest.raises(ContractInvalid):
        edge.ask(QUESTION, policy=Policy(contract=path))


def test_a_policy_checks_its_contract() -> None:
    """Two thresholds contradict one another; a contract is a path or a Contract."""
    with pytest.raises(ConfigError, match="both set"):
        Policy(contract="x", min_score=0.5)
    with pytest.raises(ConfigError, match="contract is 3"):
        Policy(contract=3)  # type: ignore[arg-type]  # that is the test
    with pytest.raises(ConfigError, match="audit"):
        Policy(audit=1.5)
    with pytest.raises(ConfigError, match="on_drift"):
        Policy(on_drift="panic")  # type: ignore[arg-type]  # that is the test


@pytest.mark.parametrize(
    ("promise", "certified"), [("error<=0.1@0.9", False), ("overall-error<=0.1@0.9", True)]
)
def test_exits_for_other_reasons_void_promises_about_kept_answers(promise: str, *, certified: bool) -> None:
    """A promise over all queries survives any exit, one about the kept ones does not."""
    with opened(cloud=FakeCloud("Cloud."), contract=(made_contract := made(promise=promise))) as edge:
        rushed = Policy(privacy="allow", contract=made_contract, prefer="cloud", audit=0)
        assert edge.ask(QUESTION).certified
        assert edge.ask(QUESTION, policy=rushed).source == "cloud"
        after = edge.ask(QUESTION)
    assert after.certified is certified
    assert ("1 of the last 2 queries left" in after.explanation) is not certified


def test_exits_are_remembered_by_the_ledger(tmp_path: Path) -> None:
    """Another process knows of them, by the contract's hash in each row."""
    path = tmp_path / "ledger.sqlite3"
    with opened(cloud=FakeCloud("Cloud."), ledger=path, prefer="cloud") as edge:
        name = edge.ask(QUESTION).contract
    with opened(ledger=path) as edge:
        assert "1 of the last 1 queries left" in edge.ask(QUESTION).explanation
    with Ledger.open(path) as ledger:
        rows = ledger.rows()
    assert [row.contract for row in rows] == [name, name]
    assert [row.confidence is None for row in rows] == [False, True]


class Biased(FakeEngine):
    """Prefers the first label whatever it is asked; on the question a little less so."""

    def score(
        self,
        prompt: str,
        continuations: Sequence[str],
        *,
        cancelled: Callable[[], bool] = lambda: False,
        on_state: OnState | None = None,
        adapter: str | None = None,
        priority: Priority = "interactive",
    ) -> tuple[float, ...]:
        return (0.0, -3.0) if QUESTION not in prompt else (-1.0, -2.0)


def test_a_choice_uses_the_strength_that_was_calibrated() -> None:
    """The ordinary one takes the bias away; a contract's own decides what the answer is, and is seen."""
    choices = ["first", "second"]
    with Edge(engine=Biased(), ledger=False) as edge:
        seen = observe(edge, QUESTION, method="choose", choices=choices)
        assert edge.choose(QUESTION, choices).label == "second"
    score = Score(name="label", intercept=3.0, columns=(column("label_u", mean=0.0, weight=1.0),))
    bound = contract(seen.binding, score=score, strength=0.0)
    with Edge(engine=Biased(), policy=Policy(contract=bound), ledger=False) as edge:
        found = edge.choose(QUESTION, choices)
    assert (found.label, found.answer.certified) == ("first", True)
    assert found.answer.score == score(
        label_observation(seen.seen, choices, LabelScores(logprobs=(-1.0, -2.0)))
    )
    assert "drift is not watched: the policy keeps everything on the device" in found.answer.explanation
