"""Edge on the real model: the verbs, their properties, and what bad input does."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel

from edgeai import (
    Answer,
    AsyncEdge,
    ConfigError,
    ContextOverflow,
    Delta,
    Done,
    Edge,
    EngineError,
    Message,
    ModelNotFound,
    Policy,
    PolicyError,
    Reason,
    Tool,
)
from edgeai.ledger import Ledger
from edgeai.testing import FakeCloud, FakeEngine, forbid_network

QUESTIONS = [
    "What is the capital of France?",
    "Name the chemical symbol for gold.",
    "What is 2 + 2?",
    "How many days are in a week?",
    "What colour is the sky on a clear day?",
    "Which planet is closest to the sun?",
    "Name three fruits.",
    "What is the opposite of hot?",
    "Who wrote Romeo and Juliet?",
    "What is the largest ocean?",
    "How many legs does a spider have?",
    "What is frozen water called?",
    "Say hello in Spanish.",
    "What is the first month of the year?",
    "What do bees make?",
    "Is a whale a fish?",
    "What is the boiling point of water in Celsius?",
    "What language is spoken in Brazil?",
    "Name a primary colour.",
    "What comes after Tuesday?",
]


@pytest.fixture(scope="module")
def edge(model_path: Path) -> Iterator[Edge]:
    with Edge(model_path, n_ctx=1024, ledger=False) as opened:
        yield opened


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_plain_question_gets_a_well_formed_answer(edge: Edge, question: str) -> None:
    """Text without control tokens, honest counts and times, a score that is a probability, no certainty."""
    answer = edge.ask(question, max_tokens=24)
    assert answer.text.strip()
    assert "<|" not in answer.text
    assert "\ufffd" not in answer.text
    assert (answer.source, answer.reason) == ("device", Reason.UNJUDGED)
    assert answer.finish_reason in ("stop", "length")
    assert answer.score is not None
    assert 0 < answer.score <= 1
    assert (answer.confidence, answer.certified, answer.disclosed_bytes) == (None, False, 0)
    assert answer.usage.completion_tokens is not None
    assert 1 <= answer.usage.completion_tokens <= 24
    assert answer.finish_reason == "stop" or answer.usage.completion_tokens == 24
    assert answer.timing.ttft_s is not None
    assert answer.timing.total_s is not None
    assert 0 < answer.timing.ttft_s <= answer.timing.total_s


def test_a_short_answer_stops_at_the_end_of_its_turn(edge: Edge) -> None:
    """The model's end-of-turn token ends the answer and is not part of its text."""
    answer = edge.ask("Name the chemical symbol for gold.", max_tokens=64)
    assert answer.finish_reason == "stop"
    assert "Au" in answer.text


def test_a_greedy_run_repeats_exactly(edge: Edge) -> None:
    """The same question gives the same text, with a cold and with a warm prefix cache."""
    first, second = (edge.ask("Name three fruits.", max_tokens=32) for _ in range(2))
    assert first.text == second.text
    assert second.usage.cached_tokens


def test_the_deltas_make_up_the_answer(edge: Edge) -> None:
    """What is streamed is what is answered."""
    *deltas, done = edge.stream("What do bees make?", max_tokens=16)
    assert isinstance(done, Done)
    assert "".join(delta.text for delta in deltas if isinstance(delta, Delta)) == done.answer.text
    assert len(deltas) > 1


def test_a_seed_repeats_a_sample(edge: Edge) -> None:
    """Sampling with one seed repeats; another seed gives another text."""
    first, *texts = [  # the first is read in another cut than those that find its prompt cached
        edge.ask("Tell me a story.", max_tokens=24, temperature=1.0, seed=seed).text for seed in (3, 1, 1, 2)
    ]
    assert first != texts[0] == texts[1] != texts[2]


def test_a_stop_string_ends_the_answer(edge: Edge) -> None:
    """The stop string does not appear, not even in part."""
    full = edge.ask("Name the chemical symbol for gold.", max_tokens=32).text
    assert "symbol" in full
    cut = edge.ask("Name the chemical symbol for gold.", max_tokens=32, stop="symbol")
    assert cut.text == full.partition("symbol")[0]
    assert cut.finish_reason == "stop"


def test_a_chat_remembers_and_reuses_its_past(edge: Edge) -> None:
    """The second turn sees the first, and most of its prompt is in the KV cache already."""
    chat = edge.chat(system="You are a helpful guide.")
    chat.ask("My name is Ada.", max_tokens=16)
    answer = chat.ask("What did I say?", max_tokens=16)
    assert [message.role for message in chat.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert answer.usage.cached_tokens is not None
    assert answer.usage.prompt_tokens is not None
    assert answer.usage.cached_tokens > answer.usage.prompt_tokens / 2


def test_choose_gives_probabilities_that_sum_to_one(edge: Edge) -> None:
    """The label is the likeliest, and its probability is the score."""
    examples = [("My parcel is late", "shipping"), ("My invoice is wrong", "billing"), ("Hello", "other")]
    choice = edge.choose("I was charged twice", ["billing", "shipping", "other"], examples=examples)
    assert choice.probabilities is not None
    assert sum(choice.probabilities.values()) == pytest.approx(1)
    assert choice.label == max(choice.probabilities, key=lambda label: choice.probabilities[label])  # type: ignore[index]  # not None, above
    assert choice.answer.score == pytest.approx(choice.probabilities[choice.label])
    assert choice.answer.score_name == "label_probability"


class Reminder(BaseModel):
    who: str
    day: str


def test_extract_fits_the_schema(edge: Edge) -> None:
    """A pydantic model comes back as its instance, a JSON schema as parsed JSON."""
    reminder = edge.extract("Call Ana on Friday", Reminder, max_tokens=64)
    assert isinstance(reminder.value, Reminder)
    plain = edge.extract(
        "Call Ana on Friday",
        {
            "type": "object",
            "properties": {"count": {"type": "integer"}},
            "required": ["count"],
            "additionalProperties": False,
        },
        max_tokens=64,
    )
    assert isinstance(plain.value["count"], int)


def test_json_that_was_cut_off_is_an_error(edge: Edge) -> None:
    """An unfinished value is not handed out; the error names the remedy."""
    with pytest.raises(EngineError, match="max_tokens"):
        edge.extract("Call Ana on Friday", Reminder, max_tokens=4)


def test_a_tool_call_fits_its_schema(edge: Edge) -> None:
    """Whatever the model decides, a call it makes is of a known tool with arguments that fit."""
    light = Tool(
        name="light",
        description="Switch the light",
        parameters={
            "type": "object",
            "properties": {"on": {"type": "boolean"}},
            "required": ["on"],
            "additionalProperties": False,
        },
    )
    answer = edge.ask("Switch the light on.", tools=[light], max_tokens=64)
    assert answer.text
    for call in answer.tool_calls:
        assert call.name == "light"
        assert isinstance(call.arguments["on"], bool)
    assert (answer.finish_reason == "tool_calls") == bool(answer.tool_calls)


def test_embeddings_are_unit_vectors_near_their_like(edge: Edge) -> None:
    """Equal texts have equal vectors; all have length 1."""
    vectors = edge.embed(["The cat sleeps.", "The cat sleeps.", "Quarterly revenue grew by 4 %."])
    assert vectors.shape == (3, edge.info.n_embd)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]


def test_cancel_ends_a_prefill_at_once(edge: Edge) -> None:
    """A query that is still reading a long prompt ends soon after its cancel, and the next one works."""
    stream = edge.stream("word " * 900, max_tokens=8)
    threading.Timer(0.05, stream.cancel).start()
    started = time.monotonic()
    *_, done = stream
    assert isinstance(done, Done)
    assert done.answer.finish_reason == "cancelled"
    assert time.monotonic() - started < 5
    assert edge.ask("What is 2 + 2?", max_tokens=8).text


def test_the_async_edge_gives_the_same(edge: Edge, model_path: Path) -> None:
    """Both colours give the same greedy text, verbs included."""

    async def asked() -> tuple[str, str, float]:
        async with AsyncEdge(model_path, n_ctx=1024, ledger=False) as other:
            answer = await other.ask("Name the chemical symbol for gold.", max_tokens=12)
            choice = await other.choose("Good!", ["good", "bad"])
            chat = other.chat()
            await chat.ask("Hello", max_tokens=4)
            assert len(chat.messages) == 2
            vectors = await other.embed(["one"])
            return answer.text, choice.label, float(np.linalg.norm(vectors))

    text, label, norm = asyncio.run(asked())
    assert text == edge.ask("Name the chemical symbol for gold.", max_tokens=12).text
    assert label == edge.choose("Good!", ["good", "bad"]).label
    assert norm == pytest.approx(1, abs=1e-5)


def test_a_local_session_tries_no_connection(model_path: Path) -> None:
    """From opening to closing, with every verb, nobody touches the network."""
    with forbid_network() as attempts, Edge(model_path, n_ctx=512) as edge:
        edge.ask("Hello", max_tokens=4)
        edge.choose("Good!", ["good", "bad"])
        edge.extract("1", {"type": "integer"}, max_tokens=16)
        edge.embed(["one"])
    assert attempts == []


# bad input


def test_a_prompt_longer_than_the_context_says_both_numbers(edge: Edge) -> None:
    """The typed error holds the numbers, and the engine goes on."""
    with pytest.raises(ContextOverflow, match="1024") as caught:
        edge.ask("word " * 3000)
    assert caught.value.n_prompt > caught.value.n_ctx == 1024


@pytest.mark.parametrize(
    ("prompt", "why"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ([], "no messages"),
        ("\ud800 lone surrogate", "Unicode"),
        ([Message("wizard", "Hello")], "role"),  # type: ignore[arg-type]  # the mistake under test
        ([Message("user", ["dropped"])], "neither"),  # type: ignore[list-item]  # the mistake under test
        (5, "prompt is a int"),
        (b"Hello", "prompt is a bytes"),
    ],
)
def test_a_prompt_that_cannot_be_asked(edge: Edge, prompt: str, why: str) -> None:
    """Each is a ConfigError before any work."""
    with pytest.raises(ConfigError, match=why):
        edge.ask(prompt)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temprature": 1}, "Did you mean 'temperature'"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"temperature": -1}, "temperature is -1"),
        ({"top_p": 2}, "top_p is 2"),
        ({"hold": -1}, "hold is -1"),
        ({"stop": [""]}, "stop is"),
        ({"priority": "high"}, "priority is 'high'"),
        ({"schema": 3}, "schema is 3"),
        ({"schema": {"type": "no such type"}}, "schema"),
        ({"schema": {"type": "integer"}, "grammar": "start: A"}, "cannot be combined"),
        ({"grammar": "start: ("}, "grammar"),
        ({"policy": "local"}, "expected a Policy"),
        ({"policy": {}}, "expected a Policy"),
        ({"max_tokens": 2.5}, "whole number"),
        ({"max_tokens": True}, "whole number"),
        ({"task": 3}, "task is 3"),
        ({"temperature": 1, "top_k": 2.5}, "whole number"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": "a"}, "seed is 'a'"),
        ({"stop": 5}, "stop is"),
        ({"stop": ["x"] * 100}, "up to 64"),
        ({"tools": ["x"]}, "list of Tool"),
        ({"grammar": 5}, "grammar is 5"),
    ],
)
def test_an_option_out_of_range_is_refused(
    edge: Edge, options: dict[str, object], message: str | None
) -> None:
    """A wrong or unknown keyword is never ignored."""
    with pytest.raises(ConfigError, match=message):
        edge.ask("Hello", **options)  # type: ignore[arg-type]  # the mistakes under test


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (["one"], "two"),
        (["a", "a"], "twice"),
        (["a", ""], "empty"),
        ("ab", "list"),
        (["a", "\ud800"], "Unicode"),
    ],
)
def test_choices_that_cannot_be_told_apart(edge: Edge, choices: list[str], message: str) -> None:
    """Each is refused before the model is asked."""
    with pytest.raises(ConfigError, match=message):
        edge.choose("Hello", choices)


@pytest.mark.parametrize("example", ["Great!", ("Great!",), ("Great!", "good", "very"), ("Great!", 1)])
def test_an_example_is_a_text_and_its_label(edge: Edge, example: tuple[str, str]) -> None:
    """Anything else is refused by name, and no error of the unpacking."""
    with pytest.raises(ConfigError, match="not a pair of texts"):
        edge.choose("Hello", ["good", "bad"], examples=[example])


def test_unknown_models_name_the_nearest() -> None:
    """A misspelled name is answered with the right one, a missing file with its path."""
    with pytest.raises(ModelNotFound, match="smollm2-135m-instruct"):
        Edge("smollm-135m-instruct", ledger=False)
    with pytest.raises(ModelNotFound, match=r"nowhere\.gguf"):
        Edge("nowhere.gguf", ledger=False)


def test_an_unknown_engine_is_refused(model_path: Path) -> None:
    """With the engines that exist."""
    with pytest.raises(ConfigError, match="llamacpp"):
        Edge(model_path, engine="lamacpp", ledger=False)  # type: ignore[arg-type]  # the mistake under test


def test_a_budget_without_a_price_is_refused() -> None:
    """Before anything could be sent."""
    policy = Policy(privacy="allow", budget_usd={"day": 1.0})
    with pytest.raises(PolicyError, match="price"):
        Edge(engine=FakeEngine(), cloud=FakeCloud(price=None), policy=policy, ledger=False)


def test_a_deadline_primes_the_time_model(model_path: Path) -> None:
    """With a deadline in the policy the first query has a prediction; a generous one stays."""
    policy = Policy(privacy="allow", deadline_s=60.0)
    with Edge(model_path, n_ctx=512, cloud=FakeCloud(), policy=policy, ledger=False) as edge:
        predicted = edge._session.device_times.total_s(n_in=40, max_tokens=8)
        assert edge.ask("What is 2 + 2?", max_tokens=8).source == "device"
    assert predicted is not None
    assert 0 < predicted < 60


# the record


def test_every_query_is_one_row_without_content(tmp_path: Path) -> None:
    """Kept, escalated, failed and cancelled queries each leave a row; the texts do not."""
    path = tmp_path / "ledger.sqlite3"
    policy = Policy(privacy="allow", min_score=0.5)
    with Edge(engine=FakeEngine("secret words"), cloud=FakeCloud(), policy=policy, ledger=path) as edge:
        edge.ask("kept")
    with Edge(engine=FakeEngine(probability=0.1), cloud=FakeCloud(), policy=policy, ledger=path) as edge:
        edge.ask("escalated", task="support")
    broken, slow = FakeEngine(error=EngineError("broken")), FakeEngine("word " * 99, delay_s=0.01)
    with Edge(engine=broken, ledger=path) as edge, pytest.raises(EngineError):
        edge.ask("failed")
    with Edge(engine=slow, ledger=path) as edge, edge.stream("left") as stream:
        next(stream)
    with Ledger.open(path) as ledger:
        left, failed, escalated, kept = ledger.rows()
    assert (kept.source, kept.reason, kept.cost_usd) == ("device", "confident", 0.0)
    assert (escalated.source, escalated.reason, escalated.task) == ("cloud", "low_confidence", "support")
    assert escalated.cost_usd is not None
    assert escalated.cost_usd > 0
    assert escalated.disclosed_bytes > 0
    assert (failed.source, failed.error) == (None, "EngineError")
    assert left.finish_reason == "cancelled"
    assert b"secret" not in path.read_bytes()


def test_a_budget_is_kept_over_queries(tmp_path: Path) -> None:
    """When the day's money is spent the device's answer stands, and says so."""
    price = FakeCloud().price
    assert price is not None
    policy = Policy(privacy="allow", min_score=0.5, budget_usd={"day": 0.0021})
    answers: list[Answer] = []
    with Edge(
        engine=FakeEngine(probability=0.1), cloud=FakeCloud(), policy=policy, ledger=tmp_path / "l.sqlite3"
    ) as edge:
        answers = [edge.ask("Why?") for _ in range(120)]
    reasons = [answer.reason for answer in answers]
    assert reasons[0] is Reason.LOW_CONFIDENCE
    assert reasons[-1] is Reason.BUDGET
    spent = sum(answer.cost_usd or 0 for answer in answers)
    assert spent <= 0.0021


def test_a_query_dearer_than_its_budget_stays() -> None:
    """The worst price of the query is compared before anything is sent."""
    policy = Policy(privacy="allow", min_score=0.5, budget_usd={"query": 1e-6})
    cloud = FakeCloud()
    with Edge(engine=FakeEngine(probability=0.1), cloud=cloud, policy=policy, ledger=False) as edge:
        answer = edge.ask("Why?")
    assert answer.reason is Reason.BUDGET
    assert "could cost" in answer.explanation
    assert cloud.received == []
