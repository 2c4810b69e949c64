"""The engine's process is killed at any moment, and the app lives."""

import logging
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from edgeai.engines import keeper, worker
from edgeai.engines.wire import WireError
from edgeai.engines.worker import ProcessEngine, open_engine
from edgeai.errors import ConfigError, EngineCrashed, EngineLoadFailed, OutOfMemory
from tests.engines.conftest import plan, request
from tests.engines.process.conftest import KILL, children, kill, wait_until
from tests.tiny_gguf import write_tiny_gguf

TALK = "C"  # to which the tiny model says 297 tokens
LONG = "the quick brown fox " * 80  # 1600 tokens of one byte each, nearly


def answer(engine: ProcessEngine, text: str = "Hi", max_tokens: int = 8) -> list[int]:
    return [token.id for token in engine.stream(request(text, max_tokens=max_tokens))]


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV])
def test_killed_while_idle(babbler: ProcessEngine, number: int) -> None:
    """It is started again by itself; nobody notices."""
    before = answer(babbler)
    pid = kill(babbler, number)
    wait_until(lambda: babbler.pid not in (None, pid))
    assert gone(pid)  # no zombie either
    assert answer(babbler) == before


def test_killed_in_the_prefill(babbler: ProcessEngine) -> None:
    """Nothing was said yet: the query is asked again, and gives its answer."""
    text = LONG
    alone = answer(babbler, text)
    generation = babbler.stream(request(text[1:], max_tokens=8))
    kill(babbler)
    assert len(list(generation)) == len(alone)
    assert answer(babbler, text) == alone


def test_killed_before_anything_was_read(babbler: ProcessEngine) -> None:
    """Tokens that nobody took are forgotten, and the answer is whole, none of them twice."""
    alone = answer(babbler, TALK, 200)
    generation = babbler.stream(request(TALK, max_tokens=200))
    wait_until(lambda: len(generation._items) > 5)
    pid = kill(babbler)
    wait_until(lambda: babbler.pid not in (None, pid))  # not before it knows of the death
    assert [token.id for token in generation] == alone


def test_killed_in_an_answer(babbler: ProcessEngine) -> None:
    """What was read cannot be taken back: a typed error that says why; the next query is answered."""
    generation = babbler.stream(request(TALK, max_tokens=1500))
    next(generation)
    kill(babbler)
    with pytest.raises(EngineCrashed, match="SIGKILL"):
        list(generation)
    assert answer(babbler)


def test_killed_while_scoring_and_embedding(babbler: ProcessEngine) -> None:
    """Asked again, with the same result."""
    labels = [f" {n}" for n in range(40)]
    scores, vectors = babbler.score(LONG, labels), babbler.embed([LONG, "b"])
    with ThreadPoolExecutor(2) as pool:
        scoring = pool.submit(babbler.score, LONG, labels)
        embedding = pool.submit(babbler.embed, [LONG, "b"])
        wait_until(lambda: len(babbler._keeper._pending) == 2)
        kill(babbler)
        assert scoring.result(20) == scores
        np.testing.assert_allclose(embedding.result(20), vectors, atol=1e-5)


def test_killed_while_loading(tiny: Path) -> None:
    """It is tried once more."""
    known = set(children())

    def kill_first() -> None:
        wait_until(lambda: set(children()) - known)
        for pid in set(children()) - known:
            psutil.Process(pid).kill()

    killer = threading.Thread(target=kill_first)
    killer.start()
    engine = open_engine("llamacpp", tiny, plan(128), name="tiny")
    killer.join()
    assert answer(engine)
    engine.close()
    assert set(children()) == known


def test_a_model_that_kills_its_process_is_not_tried_for_ever(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Twice, then an error with what the process said last; no process is left."""
    said = "GGML_ASSERT(n > 0) failed"
    broken = tmp_path / "edgeai" / "engines"
    broken.mkdir(parents=True)
    for folder in (broken, broken.parent):
        (folder / "__init__.py").touch()
    crash = f"import os, sys\nsys.stderr.write({said!r})\nsys.stderr.flush()\nos.abort()\n"
    (broken / "child.py").write_text(crash)
    monkeypatch.syspath_prepend(tmp_path)
    before = children()
    with pytest.raises(EngineCrashed, match="SIGABRT") as caught:
        open_engine("llamacpp", tiny, plan(128), name="tiny")
    assert said in str(caught.value.why)
    assert children() == before


def test_a_query_that_kills_twice_is_not_asked_a_third_time(babbler: ProcessEngine) -> None:
    """It may be what kills; the engine goes on without it."""
    generation = babbler.stream(request(LONG, max_tokens=400))
    generation.pause()
    for _ in range(2):
        pid = kill(babbler)
        wait_until(lambda pid=pid: babbler.pid not in (None, pid))  # type: ignore[misc]  # of this round
    generation.resume()
    with pytest.raises(EngineCrashed):
        list(generation)
    assert answer(babbler)


def test_after_some_crashes_all_is_over_at_once(
    babbler: ProcessEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Restarts come with growing delays and are bounded; when the crashes are old it is tried again."""
    monkeypatch.setattr(keeper, "MAX_CRASHES", 3)
    began = time.monotonic()
    for _ in range(3):
        kill(babbler)
        wait_until(lambda: babbler.pid is None)
    assert time.monotonic() - began > 0.1
    wait_until(lambda: babbler._keeper._broken)
    with pytest.raises(EngineCrashed, match=r"3 times within 60 s.*SIGKILL"):
        babbler.stream(request("Hi"))
    with pytest.raises(EngineCrashed, match="keeps on dying"):
        babbler.tokenize("Hi")
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3
    monkeypatch.setattr(keeper, "WINDOW_S", 0.0)
    assert answer(babbler)


def test_a_template_without_an_end_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process is ended; the query that used it fails, another one of before is asked again."""
    endless = (
        "{% if messages[0]['content'] == 'loop' %}"
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}"
        "{{ messages[0]['content'] }}"
    )
    path = write_tiny_gguf(tmp_path / "tiny.gguf", chat_template=endless)
    engine = open_engine("llamacpp", path, plan(512), name="tiny")
    monkeypatch.setattr(worker, "PROMPT_LIMIT_S", 0.3)
    other = engine.stream(request("Hi", max_tokens=300))
    with pytest.raises(EngineCrashed, match="template"):
        engine.stream(request("loop"))
    assert list(other)
    assert answer(engine)
    engine.close()


@pytest.mark.skipif(not worker.can_limit_memory(), reason="this system cannot bound memory")
def test_memory_is_bounded(tiny: Path, model_path: Path) -> None:
    """What does not fit is OutOfMemory when the model is opened; a bound that suffices changes nothing."""
    running = children()
    with pytest.raises(OutOfMemory):
        open_engine("llamacpp", model_path, plan(8192), name="m", memory_bytes=100 << 20)
    assert children() == running
    engine = open_engine("llamacpp", tiny, plan(128), name="tiny", memory_bytes=300 << 20)
    before = answer(engine)
    with pytest.raises(OutOfMemory, match="no more memory"):
        engine.embed(["a"] * 700_000)  # whose vectors would be 358 MB
    assert answer(engine) == before
    engine.close()
    with pytest.raises(ConfigError, match="not enough"):
        open_engine("llamacpp", tiny, plan(128), name="tiny", memory_bytes=1000)


def test_a_process_that_speaks_nonsense_is_ended(
    babbler: ProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a broken process writes, the app sees a crash, and the query is asked again."""

    def rubbish(*_: object) -> None:
        raise WireError("rubbish")

    with monkeypatch.context() as patch:
        patch.setattr(keeper.Keeper, "_hear_tokens", rubbish)
        pid = babbler.pid
        generation = babbler.stream(request("Hi", max_tokens=4))
        wait_until(lambda: babbler.pid != pid)
    wait_until(lambda: babbler.pid)
    assert len(list(generation)) == 4


def test_a_process_that_will_not_leave_is_ended(babbler: ProcessEngine) -> None:
    """`close` is bounded in time, also when the process is stopped."""
    pid = kill(babbler, signal.SIGSTOP)
    began = time.monotonic()
    babbler.close()
    assert time.monotonic() - began < 5
    assert gone(pid)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="a signal of POSIX")
def test_one_that_comes_to_a_stand_is_ended(tiny: Path) -> None:
    """Nothing is heard of it: as after a crash, who had nothing is asked again, and who had is told why."""
    engine = open_engine("llamacpp", tiny, plan(2048), name="tiny", hang_s=0.8)
    alone = answer(engine, TALK, 200)
    read = engine.stream(request(TALK, max_tokens=1500))
    next(read)
    pid = kill(engine, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(answer, engine, TALK, 200)
        with pytest.raises(EngineCrashed, match="hung") as caught:
            list(read)
        assert "for 0.8 s" in str(caught.value.why)
        assert gone(pid)
        assert asked.result(20) == alone
    engine.close()


def test_one_that_works_long_or_not_at_all_is_not_ended(tiny: Path) -> None:
    """Beats tell that steps go on, or that there is nothing to do: a reader may pause as long as it likes."""
    engine = open_engine("llamacpp", tiny, plan(2048), name="tiny", hang_s=0.8)
    pid = engine.pid
    paused = engine.stream(request(TALK, max_tokens=300))
    vectors = engine.embed([LONG] * 16)  # a second or more without a result
    time.sleep(1.2)
    assert engine.pid == pid
    assert len(vectors) == 16
    assert len(list(paused)) > 100
    engine.close()


def test_a_step_without_an_end_is_ended(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process lives and its pipe works, but the step is the same at every look; it is tried twice."""
    (tmp_path / "sitecustomize.py").write_text(
        "import time\n"
        "from edgeai.engines.scheduler import Scheduler\n"
        "run = Scheduler._run\n"
        "def hang(self, step):\n"
        "    time.sleep(1000 * any(query.limit == 77 for query, _ in step.fed))\n"
        "    run(self, step)\n"
        "Scheduler._run = hang\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    engine = open_engine("llamacpp", tiny, plan(2048), name="tiny", hang_s=0.8)
    with pytest.raises(EngineCrashed, match="hung"):
        list(engine.stream(request("Hi", max_tokens=77)))
    assert answer(engine)
    engine.close()


def test_loading_has_a_limit(tiny: Path) -> None:
    """A load that does not come to an end is an error, and its process is ended."""
    before = children()
    with pytest.raises(EngineLoadFailed, match="not loaded"):
        open_engine("llamacpp", tiny, plan(128), name="tiny", limit_s=0.01)
    assert children() == before


def test_nothing_is_left_behind(tiny: Path) -> None:
    """Killed, restarted and closed: no file, thread or process more than before."""
    process = psutil.Process()
    open_engine("llamacpp", tiny, plan(128), name="tiny").close()
    files, threads, running = process.num_fds(), threading.active_count(), children()
    for _ in range(2):
        engine = open_engine("llamacpp", tiny, plan(128), name="tiny")
        pid = kill(engine, KILL)
        wait_until(lambda pid=pid, engine=engine: engine.pid not in (None, pid))  # type: ignore[misc]  # of now
        assert answer(engine)
        engine.close()
    wait_until(lambda: threading.active_count() <= threads)
    assert (process.num_fds(), children()) == (files, running)
