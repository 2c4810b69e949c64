"""An engine in a process of its own is the same engine."""

import gc
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeai.engines import Engine
from edgeai.engines.generation import MAX_UNREAD
from edgeai.engines.llamacpp import open_engine as open_llamacpp
from edgeai.engines.onnx import open_engine as open_onnx
from edgeai.engines.worker import ProcessEngine, open_engine
from edgeai.errors import (
    Cancelled,
    ConfigError,
    ContextOverflow,
    EngineCrashed,
    ModelNotFound,
    ModelUnsupported,
)
from edgeai.types import Image, Message, Request
from tests.engines.conftest import plan, request
from tests.engines.onnx.conftest import write_tiny_package
from tests.engines.process.conftest import children, kill, wait_until

CITY = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}
LONG = "the quick brown fox jumps over the lazy dog " * 80


def same(inside: Engine, outside: Engine) -> None:
    """All calls give the same, to the last bit."""
    asked = Request(messages=(Message("user", "Name a fruit é."),), max_tokens=12, hidden=True)
    ours, theirs = inside.stream(asked), outside.stream(asked)
    tokens, found = list(ours), list(theirs)
    assert [token.id for token in found] == [token.id for token in tokens]
    assert [token.text for token in found] == [token.text for token in tokens]
    assert [token.entropy for token in found] == [token.entropy for token in tokens]
    for token, other in zip(tokens, found, strict=True):
        assert (token.hidden is None) is (other.hidden is None)
        if token.hidden is not None and other.hidden is not None:
            np.testing.assert_array_equal(other.hidden, token.hidden)
    assert ours.finished is not None
    assert theirs.finished is not None
    assert theirs.finished.n_prompt == ours.finished.n_prompt
    assert theirs.finished.prefill_s > 0
    states: list[object] = []
    more: list[object] = []
    scores = inside.score("The sky is", [" blue", " green"], on_state=states.append)
    assert outside.score("The sky is", [" blue", " green"], on_state=more.append) == scores
    np.testing.assert_array_equal(more[0], states[0])
    assert outside.tokenize("Hi <|im_end|>", special=True) == inside.tokenize("Hi <|im_end|>", special=True)
    assert outside.count_prompt(asked) == inside.count_prompt(asked)
    np.testing.assert_array_equal(outside.embed(["a", "b c"]), inside.embed(["a", "b c"]))


def test_llamacpp_is_the_same_in_a_process(model_path: Path) -> None:
    """Tokens, signals, hidden states, scores and embeddings of the default model.

    Both are new: sums depend on which cells of the cache a prompt lies in.
    """
    inside = open_llamacpp(model_path, plan(128), name="smollm2")
    outside = open_engine("llamacpp", model_path, plan(128), name="smollm2")
    try:
        same(inside, outside)
        assert outside.info == inside.info
        assert outside.memory()["weights"] == inside.memory()["weights"]
    finally:
        inside.close()
        outside.close()


def test_onnx_is_the_same_in_a_process(tmp_path: Path) -> None:
    """The other engine behind the same pipe."""
    folder = write_tiny_package(tmp_path / "tiny")
    inside = open_onnx(folder / "model.onnx", plan(256), name="m")
    outside = open_engine("onnx", folder / "model.onnx", plan(256), name="m")
    try:
        same(inside, outside)
        assert outside.info == inside.info
        kill(outside)
        wait_until(lambda: outside.pid)
        same(inside, outside)
    finally:
        inside.close()
        outside.close()


def test_a_schema_is_kept(isolated: ProcessEngine) -> None:
    """Constraints work in the other process."""
    text = "".join(token.text for token in isolated.stream(request("A city?", schema=CITY)))
    assert "Rome" in text or "Oslo" in text


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda engine: engine.stream(request(LONG * 9)), ContextOverflow),
        (lambda engine: engine.stream(request("  ")), ConfigError),
        (lambda engine: engine.score("", ["a"]), ConfigError),
        (lambda engine: engine.embed([LONG * 9]), ContextOverflow),
        (
            lambda engine: engine.stream(Request(messages=(Message("user", [Image(data=b"")]),))),
            ModelUnsupported,
        ),
        (lambda engine: engine.tokenize(3), EngineCrashed),
    ],
)
def test_errors_are_raised_where_they_would_be(
    isolated: ProcessEngine, call: Callable[[Engine], object], error: type[Exception]
) -> None:
    """As their own classes, from the call itself; a bug in a call ends that call alone."""
    before = isolated.pid
    with pytest.raises(error):
        call(isolated)
    assert isolated.pid == before


def test_a_reader_that_stops_pauses_the_other_process(isolated: ProcessEngine) -> None:
    """About 64 tokens are made ahead, not more, others go on, and it continues when read again."""
    slow = isolated.stream(request("Write a very long story.", max_tokens=MAX_UNREAD + 20))
    wait_until(lambda: not slow.wanted)
    assert len(list(isolated.stream(request("Name a fruit.", max_tokens=4)))) > 1
    assert MAX_UNREAD <= len(slow._items) < MAX_UNREAD + 10
    assert slow.finished is None
    assert len(list(slow)) == MAX_UNREAD + 20


def test_pause_and_resume_reach_the_other_process(isolated: ProcessEngine) -> None:
    """A paused stream stands still after a token or two; resumed, it ends."""
    stream = isolated.stream(request("Write a very long story.", max_tokens=40))
    next(stream)
    stream.pause()
    wait_until(lambda: next(iter(isolated._keeper._pending.values())).held)
    list(isolated.stream(request("Name a fruit.", max_tokens=8)))
    made = len(stream._items)
    list(isolated.stream(request("Name a fruit.", max_tokens=4)))
    assert len(stream._items) == made < 39
    stream.resume()
    assert len(list(stream)) == 39


def idle(engine: ProcessEngine) -> bool:
    """Nothing is under way."""
    return not engine._keeper._pending


def test_cancel_reaches_the_other_process(isolated: ProcessEngine) -> None:
    """Cancelled by call, by another thread in the prefill, and by being thrown away: its place is free."""
    first = isolated.stream(request("Write a long story.", max_tokens=500))
    next(first)
    first.cancel()
    with pytest.raises(Cancelled):
        list(first)
    prefill = isolated.stream(request(LONG, max_tokens=50))
    threading.Timer(0.1, prefill.cancel).start()
    with pytest.raises(Cancelled):
        list(prefill)
    dropped = [isolated.stream(request("Write a long story.", max_tokens=500)) for _ in range(4)]
    next(dropped[0])
    del dropped
    gc.collect()
    assert idle(isolated)
    assert (
        len(list(isolated.stream(request("Name a fruit.", max_tokens=2)))) == 2
    )  # it has a free slot at once


def test_a_score_that_nobody_wants_ends_early(isolated: ProcessEngine) -> None:
    """As in the app's own process."""
    with pytest.raises(Cancelled):
        isolated.score(LONG, [" a"], cancelled=lambda: True)
    assert idle(isolated)


def test_interactive_goes_first(isolated: ProcessEngine) -> None:
    """Priorities cross the pipe."""
    blockers = [isolated.stream(request("Write a long story.", max_tokens=20)) for _ in range(4)]
    ended: list[str] = []
    background = isolated.stream(request("Name a fruit.", max_tokens=1, priority="background"))
    interactive = isolated.stream(request("Name a bird.", max_tokens=1))
    background.on_ready(lambda: ended.append("background"))
    interactive.on_ready(lambda: ended.append("interactive"))
    for generation in (*blockers, background, interactive):
        assert list(generation)
    assert ended[0] == "interactive"


def test_what_the_engine_refuses_is_refused(tmp_path: Path) -> None:
    """A file that is not there, and no process is left behind."""
    before = children()
    with pytest.raises(ModelNotFound):
        open_engine("llamacpp", tmp_path / "no.gguf", plan(), name="m")
    assert children() == before


@pytest.fixture
def closed(babbler: ProcessEngine) -> ProcessEngine:
    """An engine that was closed while it was busy."""
    running = babbler.stream(request("C", max_tokens=1500))
    scoring: list[BaseException] = []

    def score() -> None:
        try:
            babbler.score(LONG[:400], [" a"] * 4000)
        except Cancelled as error:
            scoring.append(error)

    thread = threading.Thread(target=score)
    thread.start()
    next(running)
    babbler.close()
    with pytest.raises(Cancelled):
        list(running)
    thread.join(5)
    assert scoring
    return babbler


def test_close_ends_all_and_the_process(closed: ProcessEngine) -> None:
    """Readers and scorers end with Cancelled; the process is gone; later calls say that it is closed."""
    assert closed.pid is None
    closed.close()
    for call in (lambda: closed.stream(request("Hi")), lambda: closed.tokenize("a")):
        with pytest.raises(EngineCrashed, match="closed"):
            call()
    assert closed.memory()["weights"] > 0
