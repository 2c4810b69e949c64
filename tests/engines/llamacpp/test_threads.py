"""Many callers, cancelling, ending: the engine's thread never leaves anybody waiting."""

import gc
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgeai.engines.generation import MAX_UNREAD, Generation
from edgeai.engines.llamacpp import open_engine
from edgeai.engines.llamacpp.engine import LlamaCppEngine
from edgeai.errors import Cancelled, EngineCrashed, EngineError, EngineLoadFailed, ModelNotFound, QueueFull
from tests.engines.conftest import plan, request

WORDS = ("hot", "cold", "big", "fast", "good", "old", "happy", "dark")
QUESTIONS = [f"What is the opposite of {word}?" for word in WORDS]  # it is sure of how to begin
LONG = "the quick brown fox jumps over the lazy dog " * 300


def read(generation: Generation) -> list[int]:
    """All token ids."""
    return [token.id for token in generation]


def wait_until(condition: object, seconds: float = 30) -> None:
    """Wait for another thread's doing."""
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


def seconds_to_cancel(generation: Generation) -> float:
    """From `cancel` in another thread to the reader's Cancelled and an engine at rest."""
    began = [0.0]

    def cancel() -> None:
        began[0] = time.perf_counter()
        generation.cancel()

    threading.Timer(0.3, cancel).start()
    with pytest.raises(Cancelled):
        read(generation)
    return time.perf_counter() - began[0]


def test_cancel_stops_a_prefill_at_once(engine: LlamaCppEngine) -> None:
    """A prompt of 3000 tokens is left within a fraction of one batch, and the engine is free again."""
    generation = engine.stream(request(LONG, max_tokens=100))
    assert seconds_to_cancel(generation) < 0.5
    began = time.perf_counter()
    wait_until(lambda: not engine._scheduler._live)
    assert time.perf_counter() - began < 1  # a whole batch takes longer on one thread


def test_cancel_stops_an_answer(engine: LlamaCppEngine) -> None:
    """A long answer ends from another thread, and what was made before can be read."""
    generation = engine.stream(request("Write a very long story.", max_tokens=2000))
    next(generation)
    seconds_to_cancel(generation)
    wait_until(lambda: not engine._scheduler._live)


def test_cancelling_one_leaves_the_others_alone(engine: LlamaCppEngine) -> None:
    """A neighbour in the same batches gives its solo text although the other was aborted."""
    alone = list(engine.stream(request(QUESTIONS[0], max_tokens=4)))
    neighbour = engine.stream(request(QUESTIONS[0], max_tokens=4))
    began = next(neighbour)
    long = engine.stream(request(LONG, max_tokens=100))
    wait_until(lambda: len(engine._scheduler._decoding) == 2 or neighbour.finished)
    long.cancel()
    tokens = [began, *neighbour]
    assert [token.id for token in tokens] == [token.id for token in alone]
    # sums are rounded differently in a larger batch
    assert [token.logprob for token in tokens] == pytest.approx([token.logprob for token in alone], abs=0.5)


def test_many_threads_at_once(engine: LlamaCppEngine) -> None:
    """Eight callers all get their answers, nearly always the same as alone (batches round differently)."""
    alone = [read(engine.stream(request(question, max_tokens=4))) for question in QUESTIONS]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda q: read(engine.stream(request(q, max_tokens=4))), QUESTIONS))
    assert all(together)
    assert sum(a == b for a, b in zip(alone, together, strict=True)) >= 6


def test_a_reader_that_stops_reading_pauses_its_answer(engine: LlamaCppEngine) -> None:
    """After 64 unread tokens the sequence waits, others go on, and it continues when read again."""
    slow = engine.stream(request("Write a very long story.", max_tokens=MAX_UNREAD + 6))
    wait_until(lambda: not slow.wanted)
    assert read(engine.stream(request(QUESTIONS[1], max_tokens=4)))
    assert slow.finished is None
    assert len(read(slow)) == MAX_UNREAD + 6


def test_an_abandoned_answer_frees_its_place(engine: LlamaCppEngine) -> None:
    """A Generation that is thrown away without closing is cancelled."""
    generations = [engine.stream(request("Write a long story.", max_tokens=500)) for _ in range(4)]
    next(generations[0])
    del generations
    gc.collect()
    wait_until(lambda: not engine._scheduler._live and not engine._scheduler._waiting)


def test_more_queries_than_sequences_wait_their_turn(engine: LlamaCppEngine) -> None:
    """Queued queries are all answered, and what runs in the background comes last."""
    blockers = [engine.stream(request("Write a long story.", max_tokens=30)) for _ in range(4)]
    ended: list[str] = []
    background = engine.stream(request(QUESTIONS[2], max_tokens=2, priority="background"))
    interactive = engine.stream(request(QUESTIONS[3], max_tokens=2))
    background.on_ready(lambda: ended.append("background"))
    interactive.on_ready(lambda: ended.append("interactive"))
    for generation in (*blockers, background, interactive):
        assert read(generation)
    assert ended[0] == "interactive"


def test_a_full_queue_refuses(fresh_engine: LlamaCppEngine) -> None:
    """Beyond its bound the queue says so at once."""
    fresh_engine._scheduler._admission.max_waiting = 2
    kept = [fresh_engine.stream(request(LONG[:3000], max_tokens=300)) for _ in range(1)]
    wait_until(lambda: bool(fresh_engine._scheduler._live))
    kept += [fresh_engine.stream(request(LONG[:3000], max_tokens=300)) for _ in range(2)]
    with pytest.raises(QueueFull, match="2 queries"):
        fresh_engine.stream(request("Hi"))


def test_close_while_generating(fresh_engine: LlamaCppEngine) -> None:
    """Readers, waiting queries and scorers end with Cancelled; afterwards the engine is closed, twice."""
    running = fresh_engine.stream(request("Write a very long story.", max_tokens=600))
    waiting = [fresh_engine.stream(request(LONG[:2000], max_tokens=600)) for _ in range(3)]
    next(running)
    with ThreadPoolExecutor(1) as pool:
        scoring = pool.submit(fresh_engine.score, LONG[:2000], [" a"])
        admission = fresh_engine._scheduler._admission
        wait_until(lambda: len(admission.live) + len(admission.jobs) + len(admission.waiting) == 5)
        fresh_engine.close()
        assert isinstance(scoring.exception(timeout=10), Cancelled)
    for generation in (running, *waiting):
        with pytest.raises(Cancelled):
            read(generation)
    fresh_engine.close()
    for call in (
        lambda: fresh_engine.stream(request("Hi")),
        lambda: fresh_engine.score("a", ["b"]),
        lambda: fresh_engine.embed(["a"]),
        lambda: fresh_engine.tokenize("a"),
    ):
        with pytest.raises(EngineCrashed, match="closed"):
            call()
    assert fresh_engine.memory()["weights"] > 0


def test_a_native_failure_fails_its_queries_and_no_others(
    fresh_engine: LlamaCppEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A negative code of llama_decode is an EngineError of the queries in that batch; the next one works."""
    context = fresh_engine._context
    real = context.decode

    def fail_once() -> int:
        context.n_tokens = 0
        monkeypatch.setattr(context, "decode", real)
        return -3

    alone = read(fresh_engine.stream(request(QUESTIONS[4])))
    monkeypatch.setattr(context, "decode", fail_once)
    with pytest.raises(EngineError, match="-3"):
        read(fresh_engine.stream(request(QUESTIONS[4])))
    assert read(fresh_engine.stream(request(QUESTIONS[4]))) == alone


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_takes_nobody_with_it(
    fresh_engine: LlamaCppEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a bug in the owner thread every reader gets EngineCrashed, and later callers too."""
    monkeypatch.setattr(fresh_engine._context, "decode", lambda: 1 / 0)
    with pytest.raises(EngineCrashed, match="died"):
        read(fresh_engine.stream(request("Hi")))
    with pytest.raises(EngineCrashed):
        fresh_engine.stream(request("Hi"))


def test_an_idle_engine_uses_no_time(engine: LlamaCppEngine) -> None:
    """The owner thread sleeps when there is nothing to do."""
    wait_until(lambda: not engine._scheduler._live)
    time.sleep(0.1)  # compute threads spin for a moment
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.05


@pytest.mark.parametrize("ending", ["", "del engine, generation; import gc; gc.collect()", "engine.close()"])
def test_an_interpreter_that_ends_midway_ends_cleanly(model_path: Path, ending: str) -> None:
    """Without close, after del, after close: exit code 0, in time, and nothing on stdout and stderr."""
    program = f"""
from pathlib import Path
from edgeai.engines import DevicePlan
from edgeai.engines.llamacpp import open_engine
from edgeai.types import Message, Request
engine = open_engine(Path({str(model_path)!r}), DevicePlan(n_ctx=512, n_threads=1), name="m")
generation = engine.stream(Request(messages=(Message("user", "Write a long story."),), max_tokens=400))
next(generation)
{ending}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_loading_and_answering_is_silent(model_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither llama.cpp nor we write to stdout or stderr."""
    engine = open_engine(model_path, plan(128), name="m")
    read(engine.stream(request("Hi", max_tokens=2)))
    engine.close()
    assert capfd.readouterr() == ("", "")


def test_a_verbose_engine_speaks(model_path: Path) -> None:
    """Who asks for it gets llama.cpp's messages on stderr, and still nothing on stdout."""
    program = f"""
from pathlib import Path
from edgeai.engines import DevicePlan
from edgeai.engines.llamacpp import open_engine
open_engine(Path({str(model_path)!r}), DevicePlan(n_ctx=128, n_threads=1, verbose=True), name="m").close()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=True)
    assert b"llama_model_loader" in done.stderr
    assert done.stdout == b""


def test_a_file_that_is_no_model_fails_with_llama_cpp_s_words(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Missing and meaningless files have typed errors that say why, and nothing is printed."""
    with pytest.raises(ModelNotFound):
        open_engine(tmp_path / "missing.gguf", plan(), name="m")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(EngineLoadFailed) as caught:
        open_engine(tmp_path / "bad.gguf", plan(), name="m")
    assert caught.value.why
    assert "no reason" not in caught.value.why
    assert capfd.readouterr() == ("", "")
