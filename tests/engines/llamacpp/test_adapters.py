"""LoRA adapters by request, on the real model."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from edgeai import Edge, Policy
from edgeai.binding import binding
from edgeai.engines.llamacpp import open_engine
from edgeai.engines.llamacpp.engine import LlamaCppEngine
from edgeai.errors import ConfigError
from edgeai.types import Token
from tests.engines.conftest import alike, plan, request
from tests.tiny_gguf import write_tiny_gguf
from tests.tiny_lora import write_lora

ADAPTERS = (None, "one", "two")


@pytest.fixture(scope="module")
def files(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters."""
    folder = tmp_path_factory.mktemp("adapters")
    return {
        name: write_lora(folder / f"{name}.gguf", model_path, seed=seed)
        for seed, name in enumerate(("one", "two"))
    }


@pytest.fixture(scope="module")
def adapted(model_path: Path, files: dict[str, Path]) -> Iterator[LlamaCppEngine]:
    """An engine with both."""
    engine = open_engine(
        model_path,
        replace(plan(1024), adapters={name: str(path) for name, path in files.items()}),
        name="smollm2",
    )
    yield engine
    engine.close()


def say(engine: LlamaCppEngine, adapter: str | None, text: str = "Name a colour.") -> list[Token]:
    return list(engine.stream(replace(request(text, max_tokens=8), adapter=adapter)))


def test_each_request_has_its_own_adapter(adapted: LlamaCppEngine, engine: LlamaCppEngine) -> None:
    """Each adapter says something else; without one the model says what it says without any loaded."""
    said = {adapter: tuple(token.id for token in say(adapted, adapter)) for adapter in ADAPTERS}
    assert len(set(said.values())) == len(ADAPTERS)
    assert said[None] == tuple(token.id for token in say(engine, None))
    assert said["one"] == tuple(token.id for token in say(adapted, "one"))


def test_no_adapter_reads_what_another_computed(adapted: LlamaCppEngine) -> None:
    """The same prompt is prefilled for each adapter, and known to it from then on."""
    cached = []
    for adapter in (*ADAPTERS, *ADAPTERS):
        with adapted.stream(replace(request("What is a lamp for?"), adapter=adapter)) as generation:
            list(generation)
        assert generation.finished is not None
        cached.append(generation.finished.n_cached)
    assert max(cached[:3]) < min(cached[3:])


def test_many_at_once_are_answered_as_alone(adapted: LlamaCppEngine) -> None:
    """Six threads with three adapters: everybody is answered, as under the own adapter alone."""
    texts = ("Name a river.", "Spell cat.")
    work = [(adapter, text) for text in texts for adapter in ADAPTERS]
    alone = [say(adapted, *one) for one in work]
    with ThreadPoolExecutor(len(work)) as pool:
        together = list(pool.map(lambda one: say(adapted, *one), work))
    for expected, found in zip(alone, together, strict=True):
        alike(expected, found)


def test_a_person_does_not_wait_for_the_background(adapted: LlamaCppEngine) -> None:
    """A long background answer steps aside for another adapter, and goes on where it was."""
    long = replace(request("Write a story.", max_tokens=40, priority="background"), adapter="one")
    alone = list(adapted.stream(long))
    slow = adapted.stream(long)
    first = next(slow)
    say(adapted, "two")
    assert slow.finished is None
    alike(alone, [first, *slow])


def test_labels_and_texts_are_judged_under_an_adapter(
    adapted: LlamaCppEngine, engine: LlamaCppEngine
) -> None:
    """Each adapter scores and embeds its own way; without one, as the model without any loaded does."""
    labels = [" blue", " green"]
    scores = {name: adapted.score("The sky is", labels, adapter=name) for name in ADAPTERS}
    assert len(set(scores.values())) == len(ADAPTERS)
    assert scores[None] == pytest.approx(engine.score("The sky is", labels), abs=1e-4)
    vectors = {name: adapted.embed(["A lamp."], adapter=name)[0] for name in ADAPTERS}
    assert vectors[None] @ engine.embed(["A lamp."])[0] > 0.9999
    assert max(vectors["one"] @ vectors["two"], vectors["one"] @ vectors[None]) < 0.999
    with pytest.raises(ConfigError, match="one, two"):
        adapted.embed(["A lamp."], adapter="three")


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_an_edge_chooses_and_embeds_under_an_adapter(
    tmp_path: Path, isolation: Literal["thread", "process"]
) -> None:
    """In this process or another one; what was measured without content is known for each adapter apart."""
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    files = {"one": write_lora(tmp_path / "one.gguf", model)}
    with Edge(model, n_ctx=256, adapters=files, ledger=False, isolation=isolation) as edge:
        plain, other = (edge.choose("Hello", ["a", "b"], adapter=name) for name in (None, "one"))
        assert other.probabilities != plain.probabilities
        assert other.answer.model.endswith("+one")
        again = edge.choose("Hello", ["a", "b"], adapter="one", priority="background")
        assert again.probabilities == pytest.approx(other.probabilities, abs=1e-5)
        vector = edge.embed(["Hello"], priority="background")[0]
        assert vector @ edge.embed(["Hello"])[0] > 0.9999
        assert vector @ edge.embed(["Hello"], adapter="one")[0] < 0.999
        with pytest.raises(ConfigError, match="priority"):
            edge.embed(["Hello"], priority="soon")  # type: ignore[arg-type]  # the mistake under test


def test_an_unknown_adapter_is_named(adapted: LlamaCppEngine, engine: LlamaCppEngine) -> None:
    """The error lists those that are loaded."""
    with pytest.raises(ConfigError, match="one, two"):
        adapted.stream(replace(request("Hello"), adapter="three"))
    with pytest.raises(ConfigError, match="without adapters"):
        engine.stream(replace(request("Hello"), adapter="one"))


def test_the_answer_says_which_adapter_spoke(tmp_path: Path) -> None:
    """Answer and ledger name it with the model; what a contract is bound to changes with the adapter."""
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    files = {
        name: write_lora(tmp_path / f"{name}.gguf", model, seed=seed)
        for seed, name in enumerate(("one", "two"))
    }
    with Edge(model, n_ctx=256, adapters=files, ledger=False, policy=Policy()) as edge:
        answer = edge.ask("Hello", adapter="one", max_tokens=4)
        assert answer.model == f"{edge.info.model}+one"
        facts = [
            binding(edge.info, "weights", replace(request("Hello"), adapter=adapter), "ask")
            for adapter in ADAPTERS
        ]
    assert len({fact.weights for fact in facts}) == len(ADAPTERS)
    assert facts[0].weights == "weights"
