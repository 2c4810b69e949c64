"""A draft model on llama.cpp: it changes no answer, fits the vocabulary, and is counted."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from edgeai import Edge, OutOfMemory
from edgeai.devices.fitting import memory_plan
from edgeai.devices.memory import Memory
from edgeai.engines.account import Account
from edgeai.engines.draft import Drafter, Trust
from edgeai.engines.llamacpp import open_engine
from edgeai.engines.llamacpp.engine import LlamaCppEngine
from edgeai.errors import ConfigError, ModelUnsupported
from edgeai.testing import FakeEngine
from edgeai.types import Sampling
from tests.engines.conftest import alike, plan, request
from tests.tiny_gguf import write_tiny_gguf

QUESTIONS = ("What is the opposite of hot?", "Count from one to ten.", "Name three colours.")


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guesses are made whatever they cost."""
    monkeypatch.setattr("edgeai.engines.draft.MARGIN", 0.0)
    monkeypatch.setattr(Drafter, "_promises", lambda self, sequences: sequences > 0)
    monkeypatch.setattr(Account, "is_open", True)


def opened(model: Path, draft: Path) -> LlamaCppEngine:
    return open_engine(model, replace(plan(1024), draft=str(draft)), name="drafted")


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("kind", ["the same", pytest.param("random", marks=pytest.mark.soak)])
def test_answers_are_those_without_it(
    kind: str, model_path: Path, tmp_path: Path, engine: LlamaCppEngine
) -> None:
    """A draft model that is right, as it is the same, and one that is wrong."""
    draft = model_path
    if kind == "random":  # weights; with the same vocabulary
        draft = write_tiny_gguf(tmp_path / "random.gguf", n_ctx=2048, n_layer=1, vocabulary_of=model_path)
    drafted = opened(model_path, draft)
    drafter = drafted._scheduler._filler._drafter
    assert drafter is not None
    for question in QUESTIONS[: 1 if kind == "the same" else None]:
        asked = request(question, max_tokens=16)
        alike(list(engine.stream(asked)), list(drafted.stream(asked)))
    mean = drafter._trust.mean
    drafted.close()
    assert mean > 0.5 if kind == "the same" else mean < 0.2


@pytest.mark.usefixtures("always")
def test_sampled_answers_are_those_without_it(pair: tuple[Path, Path]) -> None:
    """Each token is drawn with the number it would have had, whatever was guessed before it.

    On full-precision weights: where a batch of another size rounds eight-bit sums otherwise, a draw at the
    border of two tokens falls to the other one, however unlike these are.
    """
    model, draft = pair
    plain, drafted = open_engine(model, plan(1024), name="plain"), opened(model, draft)
    for seed in range(4):
        asked = request("C", max_tokens=60, sampling=Sampling(temperature=0.8, seed=seed))
        ids = [[token.id for token in engine.stream(asked)] for engine in (plain, drafted)]
        assert ids[0] == ids[1]
    drafter = drafted._scheduler._filler._drafter
    assert drafter is not None
    assert drafter._trust.mean != Trust().mean  # some were checked
    plain.close()
    drafted.close()


def test_one_that_does_not_pay_is_left_alone(pair: tuple[Path, Path]) -> None:
    """A draft model that is wrong, or says itself that it does not know, turns itself off; answers go on."""
    model, draft = pair
    drafted = opened(model, draft)
    drafter = drafted._scheduler._filler._drafter
    assert drafter is not None
    drafter.costs.of = lambda rows: 0.010 * rows**0.5  # type: ignore[method-assign]  # of a usual machine
    drafter._own.of = lambda rows: 0.002  # type: ignore[method-assign]  # likewise
    calls = []
    guess = drafter._guess

    def counted(*given: Any) -> None:  # noqa: ANN401  # what it takes
        calls.append(1)
        guess(*given)

    drafter._guess = counted  # type: ignore[assignment, method-assign]  # it counts
    assert len(list(drafted.stream(request("C", max_tokens=200)))) > 100
    assert calls
    calls.clear()
    assert len(list(drafted.stream(request("C", max_tokens=200)))) > 100
    drafted.close()
    assert len(calls) <= 16  # a trial at most


def test_another_vocabulary_is_refused(model_path: Path, tmp_path: Path) -> None:
    """With the first difference; in an Edge as in the engine."""
    tiny = write_tiny_gguf(tmp_path / "tiny.gguf")
    with pytest.raises(ModelUnsupported, match="another one: it has 267 tokens, and not 49152"):
        opened(model_path, tiny)
    other = write_tiny_gguf(tmp_path / "other.gguf", seed=1)
    data = other.read_bytes()
    at = data.index("Ġthe".encode())
    other.write_bytes(data[:at] + "Ġthx".encode() + data[at + 5 :])
    with pytest.raises(ModelUnsupported, match="token 26"):
        Edge(tiny, draft=other, ledger=False, isolation="thread")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two models of one vocabulary."""
    return (
        write_tiny_gguf(tmp_path / "tiny.gguf", n_ctx=1024),
        write_tiny_gguf(tmp_path / "draft.gguf", seed=1, n_layer=1, n_ctx=1024),
    )


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_an_edge_takes_one(pair: tuple[Path, Path], isolation: Literal["thread", "process"]) -> None:
    """In this process or another one: the same answers, and its memory is told."""
    model, draft = pair
    answers = []
    for other in (None, draft):
        with Edge(model, draft=other, n_ctx=512, ledger=False, isolation=isolation) as edge:
            answers.append(edge.ask("C", max_tokens=100).text)
            memory = edge._session.engine.memory()  # type: ignore[attr-defined]  # of ours
            assert ("draft" in memory) == (other is not None)
    assert answers[0] == answers[1]


def test_its_memory_is_part_of_the_plan(pair: tuple[Path, Path]) -> None:
    """What it takes is taken off the room of the model, and named where that is too small."""
    from edgeai.devices.fitting import fit
    from edgeai.devices.probe import probe
    from edgeai.devices.profiles import choose
    from edgeai.models import store

    model, draft = map(store.find, pair)
    budget = choose("auto", probe()).memory
    memory = Memory(total=4 << 30, available=4 << 30)
    alone, beside = (memory_plan(model, plan(512), memory, budget, draft=one) for one in (None, draft))
    assert alone.room - beside.room == beside.draft > draft.path.stat().st_size * 0.9
    with pytest.raises(OutOfMemory, match="of the draft model"):
        fit(model, plan(512), Memory(total=4 << 30, available=1 << 20), budget, draft=draft)


@pytest.mark.parametrize(
    ("keywords", "why"),
    [({"speculate": False}, "speculate is off"), ({"engine": FakeEngine()}, "engine of your own")],
)
def test_what_cannot_be_is_refused(pair: tuple[Path, Path], keywords: dict[str, object], why: str) -> None:
    """No keyword is taken and ignored."""
    model, draft = pair
    with pytest.raises(ConfigError, match=why):
        Edge(model, draft=draft, ledger=False, **keywords)  # type: ignore[arg-type]  # the mistakes
