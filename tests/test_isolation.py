"""The product with its engine in a process of its own: what the app, its terminal and its cloud see."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import cast

import psutil
import pytest

from edgeai import (
    AsyncEdge,
    Cancelled,
    ConfigError,
    Delta,
    Done,
    Edge,
    EngineCrashed,
    OpenAI,
    Policy,
    Reason,
    Replaced,
    Stream,
)
from edgeai.cli.opening import open_edge
from edgeai.config import Settings
from edgeai.engines.llamacpp.engine import LlamaCppEngine
from edgeai.engines.worker import ProcessEngine
from edgeai.isolated import needs_process
from edgeai.models import store
from edgeai.models.vouched import is_vouched, vouch
from edgeai.testing import FakeCloud, FakeEngine
from tests.engines.process.conftest import children, kill, wait_until
from tests.servers import katan
from tests.tiny_gguf import write_tiny_gguf

OPEN = Policy(privacy="allow")
TALK = "C"  # to which the tiny model says 297 tokens
posix = pytest.mark.skipif(os.name != "posix", reason="signals and sessions of POSIX")


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of nobody's catalog."""
    return write_tiny_gguf(tmp_path_factory.mktemp("foreign") / "tiny.gguf", n_ctx=2048)


def process_of(edge: Edge) -> ProcessEngine:
    """The Edge's engine, which is one in a process."""
    engine = edge._session.engine
    assert isinstance(engine, ProcessEngine)
    return engine


def test_auto_isolates_what_nobody_vouches_for(tiny_file: Path, model_path: Path) -> None:
    """The catalog's model runs in the app, a strange file in a process, and each keyword is obeyed."""
    with Edge(tiny_file, n_ctx=128, ledger=False) as strange:
        assert process_of(strange).pid in children()
        assert strange.ask("Hi", max_tokens=4).text
    with Edge(tiny_file, n_ctx=128, ledger=False, isolation="thread") as inside:
        assert isinstance(inside._session.engine, LlamaCppEngine)
    assert not needs_process(store.find(model_path))
    assert needs_process(store.find(model_path), "process")
    assert needs_process(store.find(model_path), memory_bytes=1 << 30)


def test_what_is_made_of_a_trusted_model_is_vouched_for(onnx_package: Path, tmp_path: Path) -> None:
    """By the hashes of all its files: a package with another template is not."""
    package = store.find(onnx_package)
    assert not is_vouched(package)
    vouch(package)
    assert is_vouched(package)
    assert not needs_process(package)
    other = shutil.copytree(onnx_package, tmp_path / "other")
    text = (other / "edgeai.json").read_text()
    sha256 = package.manifest.files[-1].sha256
    assert sha256 is not None
    (other / package.manifest.files[-1].path).write_bytes(b"{}")
    import hashlib

    size = package.manifest.files[-1].size
    text = text.replace(sha256, hashlib.sha256(b"{}").hexdigest()).replace(f'"size": {size}', '"size": 2')
    (other / "edgeai.json").write_text(text)
    assert not is_vouched(store.find(other))


def test_the_settings_reach_the_engine(tiny_file: Path) -> None:
    """As `edgeai ask --isolation process` and the variables hand them over."""
    found = Settings.load({"isolation": "process"}, environ={"EDGEAI_ISOLATION_MEMORY_BYTES": "1000000000"})
    assert (found.isolation, found.isolation_memory_bytes) == ("process", 1_000_000_000)
    with pytest.raises(ConfigError, match="isolation"):
        Settings.load({"isolation": "jail"}, environ={})
    settings = Settings(model=str(tiny_file), n_ctx=128, isolation_limit_s=7.5, ledger=False)
    with open_edge(replace(settings, isolation="process", draft=str(tiny_file))) as edge:
        assert process_of(edge).pid
        assert process_of(edge)._keeper._watchdog.limit_s == 7.5
        assert process_of(edge).memory()["draft"] > 0
    with pytest.raises(ConfigError, match="ISOLATION_LIMIT_S"):
        Settings.load({}, environ={"EDGEAI_ISOLATION_LIMIT_S": "-1"})


@pytest.mark.parametrize(
    ("keywords", "why"),
    [
        ({"isolation": "jail"}, "auto, thread, process"),
        ({"isolation": "thread", "isolation_memory_bytes": 1 << 30}, "process of the engine's own"),
        ({"isolation": "thread", "isolation_limit_s": 5}, "isolation_limit_s is 5"),
        ({"isolation_limit_s": 0}, "seconds above zero"),
        ({"engine": FakeEngine(), "isolation_limit_s": 5}, "engine of your own"),
        ({"engine": FakeEngine(), "isolation": "process"}, "engine of your own"),
    ],
)
def test_what_cannot_be_is_refused(tiny_file: Path, keywords: dict[str, object], why: str) -> None:
    """No keyword is taken and ignored."""
    with pytest.raises(ConfigError, match=why):
        Edge(tiny_file, ledger=False, **keywords)  # type: ignore[arg-type]  # the mistakes under test


@pytest.fixture
def edge(tiny_file: Path) -> Iterator[Edge]:
    """A babbling Edge, a cloud behind it."""
    with Edge(tiny_file, n_ctx=2048, cloud=FakeCloud("The cloud."), policy=OPEN, ledger=False) as edge:
        yield edge


def killed_midway(edge: Edge) -> tuple[Stream, str]:
    """A stream whose engine was killed after something was shown, and that."""
    stream = edge.stream(TALK, max_tokens=1500)
    first = next(stream)
    assert isinstance(first, Delta)
    kill(process_of(edge))
    return stream, first.text


def test_a_killed_engine_is_replaced_by_the_cloud(edge: Edge) -> None:
    """What was shown is withdrawn when the cloud has spoken; the next query is answered on the device."""
    stream, _ = killed_midway(edge)
    events = list(stream)
    replaced = next(event for event in events if isinstance(event, Replaced))
    assert (replaced.reason, replaced.source) == (Reason.ENGINE_ERROR, "cloud")
    done = events[-1]
    assert isinstance(done, Done)
    assert (done.answer.text, done.answer.source) == ("The cloud.", "cloud")
    assert edge.ask("Hi", max_tokens=4).source == "device"


def test_a_killed_engine_is_replaced_by_somebody_elses_server(tiny_file: Path) -> None:
    """The same against llm-katan."""
    with (
        katan() as server,
        Edge(
            tiny_file,
            cloud=OpenAI("echo", key="any", base_url=server.url),
            policy=OPEN,
            ledger=False,
        ) as edge,
    ):
        stream, _ = killed_midway(edge)
        answer = stream.answer()
    assert (answer.source, answer.reason) == ("cloud", Reason.ENGINE_ERROR)
    assert answer.text


def test_a_private_query_fails_with_the_reason(edge: Edge) -> None:
    """A crash is no excuse to let it leave."""
    stream = edge.stream(TALK, max_tokens=1500, policy=Policy())
    next(stream)
    kill(process_of(edge))
    with pytest.raises(EngineCrashed, match="SIGKILL"):
        list(stream)
    cloud = edge._session.cloud
    assert isinstance(cloud, FakeCloud)
    assert cloud.received == []


def test_killed_before_anything_was_shown_stays_on_the_device(edge: Edge) -> None:
    """Asked again where it was, though the cloud would be there."""
    alone = edge.ask("x" * 1500, max_tokens=8).text
    kill(process_of(edge))
    wait_until(lambda: process_of(edge).pid)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(edge.ask, "x" * 1500, max_tokens=8)
        wait_until(lambda: process_of(edge)._keeper._pending)
        kill(process_of(edge))
        answer = asked.result(20)
    assert (answer.source, answer.text) == ("device", alone)


def test_choices_survive_a_kill(edge: Edge) -> None:
    """Labels are scored again, with the same probabilities."""
    examples = [("x" * 200, "a"), ("y" * 200, "b")]
    labels = ["a", "b", *(f"label number {n}" for n in range(40))]  # so that it takes a while
    before = edge.choose("z" * 200, labels, examples=examples).probabilities
    with ThreadPoolExecutor(1) as pool:
        chosen = pool.submit(edge.choose, "z" * 200, labels, examples=examples)
        wait_until(lambda: process_of(edge)._keeper._pending)
        kill(process_of(edge))
        assert chosen.result(20).probabilities == pytest.approx(before, abs=1e-4)  # of other batches


def test_asyncio_and_two_edges(tiny_file: Path) -> None:
    """Two processes; one is killed, and the streams of the other go on; cancelled tasks leave nothing."""

    async def main() -> None:
        async with (
            AsyncEdge(tiny_file, n_ctx=512, ledger=False) as one,
            AsyncEdge(tiny_file, n_ctx=512, ledger=False) as two,
        ):
            assert len(set(children())) - before == 2
            alone = (await two.ask(TALK, max_tokens=200)).text
            doomed, safe = one.stream(TALK, max_tokens=400), two.stream(TALK, max_tokens=200)
            await anext(doomed)
            await anext(safe)
            kill(cast(ProcessEngine, one._session.engine))
            assert (await safe.answer()).text == alone
            with pytest.raises(EngineCrashed):
                await doomed.answer()
            assert (await one.ask("Hi", max_tokens=4)).text
            keeper = cast(ProcessEngine, one._session.engine)._keeper
            task = asyncio.create_task(one.ask(TALK * 450, max_tokens=30))
            while not keeper._pending:
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            wait_until(lambda: not keeper._pending)

    before = len(set(children()))
    asyncio.run(main())
    assert len(set(children())) == before


def test_closing_an_edge_ends_its_streams(tiny_file: Path) -> None:
    """As with an engine in the app."""
    edge = Edge(tiny_file, n_ctx=512, ledger=False)
    stream = edge.stream(TALK, max_tokens=400)
    next(stream)
    began = time.monotonic()
    edge.close()
    assert time.monotonic() - began < 2
    with pytest.raises(Cancelled):
        list(stream)


def run_app(program: str | None, *, new_session: bool = False) -> "subprocess.Popen[str]":
    """An app of the test's own, without a main guard; without a program it is read from stdin."""
    command = [sys.executable, "-"] if program is None else [sys.executable, "-c", program]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=new_session,
    )


APP = """
import os, sys, time
from edgeai import Edge
edge = Edge({path!r}, n_ctx=512, ledger=False, isolation="process")
engine = edge._session.engine
alone = edge.ask("C", max_tokens=400).text
stream = edge.stream("C", max_tokens=400)
next(stream)
print(engine.pid, flush=True)
"""


def ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("ending", ["", "edge.close()", "del edge, stream, engine", "os._exit(0)", "1 / 0"])
def test_an_app_that_ends_leaves_no_process(tiny_file: Path, ending: str) -> None:
    """However it ends, midway in an answer; and quietly."""
    app = run_app(APP.format(path=str(tiny_file)) + ending)
    said, complaints = app.communicate(timeout=30)
    pid = int(said)
    wait_until(lambda: ended(pid), 5)
    assert complaints == "" or ending == "1 / 0"


@posix
def test_an_app_that_is_killed_leaves_no_process(tiny_file: Path) -> None:
    """Also when a fork of it, which has the pipe too, lives on."""
    fork = "if os.fork() == 0:\n    os.closerange(0, 3)\n    time.sleep(5)\n    os._exit(0)\ntime.sleep(30)\n"
    app = run_app(APP.format(path=str(tiny_file)) + fork)
    assert app.stdout is not None
    pid = int(app.stdout.readline())
    app.kill()
    app.communicate(timeout=10)
    wait_until(lambda: ended(pid), 3 if sys.platform == "linux" else 10)


@posix
def test_ctrl_c_is_the_apps_to_decide(tiny_file: Path) -> None:
    """The terminal's signal reaches the app alone, and the engine answers the next query."""
    program = """
try:
    for event in stream:
        time.sleep(0.01)
except KeyboardInterrupt:
    print("interrupted", engine.pid, edge.ask("Hi", max_tokens=4).source, flush=True)
edge.close()
"""
    app = run_app(APP.format(path=str(tiny_file)) + program, new_session=True)
    assert app.stdout is not None
    pid = int(app.stdout.readline())
    time.sleep(0.1)
    os.killpg(app.pid, signal.SIGINT)
    said, complaints = app.communicate(timeout=30)
    assert (said, complaints, app.returncode) == (f"interrupted {pid} device\n", "", 0)
    assert ended(pid)


def test_an_app_read_from_stdin_keeps_its_stdin(tiny_file: Path) -> None:
    """As in a REPL: the engine neither runs the app's main again nor reads its input."""
    app = run_app(None)
    program = (
        APP.format(path=str(tiny_file)) + "print('rest:', stream.answer().text == alone)\nedge.close()\n"
    )
    said, complaints = app.communicate(program, timeout=30)
    assert said.splitlines()[1:] == ["rest: True"]
    assert complaints == ""


@posix
def test_a_fork_in_the_middle_of_a_stream_hurts_nobody(tiny_file: Path) -> None:
    """The fork may not use the engine, and ends without ending it; the app's stream goes on."""
    program = """
import edgeai
pid = os.fork()
if pid == 0:
    try:
        edge.ask("Hi")
    except edgeai.EngineCrashed as error:
        print(error.what, flush=True)
    sys.exit(0)
os.waitpid(pid, 0)
print(stream.answer().text == alone, engine.pid)
edge.close()
"""
    app = run_app(APP.format(path=str(tiny_file)) + program)
    said, complaints = app.communicate(timeout=30)
    pid, refused, done = said.splitlines()
    assert refused == "The engine belongs to another process"
    assert done == f"True {pid}"
    assert complaints == ""
