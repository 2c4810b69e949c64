"""Engines on the real model, opened once: one thread, so that a busy machine only makes them slow."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol, TypedDict, Unpack

import pytest

from edgeai.engines import DevicePlan, Generation
from edgeai.engines.llamacpp import open_engine
from edgeai.engines.llamacpp.engine import LlamaCppEngine
from edgeai.types import JsonSchema, Message, Request, Sampling, Token, Tool
from tests.rounding import MOST_GAP, gap


class Fields(TypedDict, total=False):
    """What a test may set in a request."""

    max_tokens: int
    sampling: Sampling
    stop: tuple[str, ...]
    schema: JsonSchema
    grammar: str
    tools: tuple[Tool, ...]
    priority: Literal["interactive", "background"]


class Ask(Protocol):
    """Ask the shared engine: the text, the tokens, and the ended Generation."""

    def __call__(self, text: str, **fields: Unpack[Fields]) -> tuple[str, list[Token], Generation]:
        """Until the answer's end."""
        ...


def plan(n_ctx: int = 4096, parallel: int | None = None) -> DevicePlan:
    """A plan for the tests' machine."""
    return DevicePlan(n_ctx=n_ctx, n_threads=1, parallel=parallel)


def request(text: str, **fields: Unpack[Fields]) -> Request:
    """A request with one user message, for 16 tokens if not said otherwise."""
    fields.setdefault("max_tokens", 16)
    return Request(messages=(Message("user", text),), **fields)


@pytest.fixture(scope="session")
def engine(model_path: Path) -> Iterator[LlamaCppEngine]:
    """The engine with room for long prompts."""
    engine = open_engine(model_path, plan(), name="smollm2")
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def small_engine(model_path: Path) -> Iterator[LlamaCppEngine]:
    """The engine with a context of 128 tokens."""
    engine = open_engine(model_path, plan(128), name="smollm2")
    yield engine
    engine.close()


@pytest.fixture
def fresh_engine(model_path: Path) -> Iterator[LlamaCppEngine]:
    """An engine of the test's own, for four queries at once, to be closed or broken."""
    engine = open_engine(model_path, plan(1024, 4), name="smollm2")
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def ask(engine: LlamaCppEngine) -> Ask:
    """Ask the shared engine: the text, the tokens, and the ended Generation."""

    def run(text: str, **fields: Unpack[Fields]) -> tuple[str, list[Token], Generation]:
        generation = engine.stream(request(text, **fields))
        tokens = list(generation)
        return "".join(token.text for token in tokens), tokens, generation

    return run


def alike(expected: Sequence[Token], found: Sequence[Token]) -> None:
    """Both say the same, up to a choice between two nearly equal tokens; from there texts differ."""
    for a, b in zip(expected, found, strict=False):
        if a.id != b.id:
            assert gap(a) < MOST_GAP
            return
        assert a.logprob == pytest.approx(b.logprob, abs=MOST_GAP)
    assert len(expected) == len(found)
