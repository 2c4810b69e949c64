"""Recording for a calibration: the way that answers are served, on the real model."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeai import ConfigError, Edge, Message
from edgeai.monitor.choices import label_features
from edgeai.monitor.watch import label_observation
from edgeai.observe import observe
from edgeai.testing import FakeEngine
from edgeai.types import LabelScores

EXAMPLES = [("Set an alarm for six", "alarm"), ("Will it rain today?", "weather")]
LABELS = ["alarm", "weather"]


@pytest.fixture(scope="module")
def edge(model_path: Path) -> Iterator[Edge]:
    """The default model by its path, without a ledger."""
    with Edge(model_path, ledger=False, n_ctx=512) as edge:
        yield edge


def test_an_answer_is_seen_in_full(edge: Edge) -> None:
    """The answer is the served one; features, checkpoints, prompt and hidden state come with it."""
    question = "Name the chemical symbol for gold."
    found = observe(edge, question, max_tokens=9, task="facts")
    served = edge.ask(question, max_tokens=9, task="facts")
    assert found.answer.text == served.text
    n = served.usage.completion_tokens or 0
    assert set(found.seen.prefixes) == {at for at in (1, 4, 8) if at <= n}
    assert found.seen.features["prompt_log_length"] is not None
    assert found.seen.features["sum_logprob"] is not None
    assert found.seen.categories == {"task": "facts"}
    assert found.seen.words
    assert found.seen.hidden is not None
    assert found.seen.hidden.shape == (2 * edge.info.n_embd,)


def test_a_choice_is_seen_with_its_measurements(edge: Edge) -> None:
    """Label features and the predicted label are those of the answer; another strength is a recount."""
    found = observe(edge, "Wake me at seven", method="choose", choices=LABELS, examples=EXAMPLES)
    served = edge.choose("Wake me at seven", LABELS, examples=EXAMPLES)
    assert found.answer.text == served.label == found.seen.categories["label"]
    assert found.labels is not None
    again = label_features(found.labels.logprobs, found.labels.content_free, found.labels.strength)
    assert again["label_p"] == pytest.approx(found.answer.score, abs=0.01)
    assert {name: found.seen.features[name] for name in again} == again
    plain = label_observation(found.seen, LABELS, LabelScores(logprobs=found.labels.logprobs))
    assert plain.features["label_p"] == label_features(found.labels.logprobs)["label_p"]
    assert found.seen.hidden is not None


def test_an_extraction_is_seen(edge: Edge) -> None:
    """JSON values are the answer's span."""
    schema = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}
    found = observe(edge, "I live in Rome.", method="extract", schema=schema, max_tokens=32)
    assert found.seen.features["span_sum_logprob"] is not None
    assert found.binding.schema is not None
    assert found.binding.method == "extract"


def test_the_binding_holds_all_that_shapes_an_answer(edge: Edge) -> None:
    """It is the model file's own hash, and any change of the call changes it."""
    found = observe(edge, "Hi", max_tokens=1)
    bound = found.binding
    assert bound == observe(edge, "Ho", max_tokens=1).binding
    assert bound.weights == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert bound.template == edge.info.template_hash
    system = [Message("system", "Be brief."), Message("user", "Hi")]
    turns = [Message("user", "Hi"), Message("assistant", "Ho"), Message("user", "Hi")]
    others = [
        observe(edge, "Hi", max_tokens=2),
        observe(edge, "Hi", max_tokens=1, temperature=0.5),
        observe(edge, "Hi", max_tokens=1, task="greeting"),
        observe(edge, "Hi", max_tokens=1, stop="x"),
        observe(edge, system, max_tokens=1),
        observe(edge, turns, max_tokens=1),
        observe(edge, [Message("user", "Hey"), *turns[1:]], max_tokens=1),
        observe(edge, [Message("system", "Say hi.")], max_tokens=1),
    ]
    assert all(bound.matches(other.binding) for other in others)
    assert len({other.binding for other in others}) == len(others)


def test_recording_leaves_no_trace_and_takes_no_policy(tmp_path: Path) -> None:
    """No row in the ledger; what cannot be obeyed is refused."""
    with Edge(engine=FakeEngine("a"), ledger=tmp_path / "l.sqlite3") as edge:
        observe(edge, "Hi", method="choose", choices=["a", "b"])
        assert edge._session.ledger is not None
        assert edge._session.ledger.rows() == ()
        with pytest.raises(ConfigError, match="takes no policy"):
            observe(edge, "Hi", policy=edge._session.policy)
        with pytest.raises(ConfigError, match="neither choices"):
            observe(edge, "Hi", choices=["a"])
        with pytest.raises(ConfigError, match="needs a schema"):
            observe(edge, "Hi", method="extract")
