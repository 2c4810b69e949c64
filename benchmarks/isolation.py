"""The same engine and model in the app's process and in one of its own, in interleaved rounds: decode of one
stream and of four, the first token of a short question, and what a crash costs. Each contender is an app in a
process of its own, with the same number of threads.
"""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from statistics import median

from benchmarks.speed import GGUF, MODEL, N_CTX, N_TOKENS, QUESTION, edge_decode
from benchmarks.table import Row, at_least, interleaved, plain, ratio
from benchmarks.workers import Contender, worker
from edgeai import Edge
from edgeai.engines.worker import ProcessEngine
from edgeai.isolated import IsolationName
from edgeai.models import store

ROUNDS = 7
N_STREAMS = 4


def measure() -> list[Row]:
    """The rows of the table. Takes about a minute on two quiet cores."""
    store.pull(MODEL)
    with ExitStack() as stack:
        thread = stack.enter_context(worker(app, "thread"))
        process = stack.enter_context(worker(app, "process"))
        figures = interleaved(
            {
                "thread": lambda: thread("decode"),
                "process": lambda: process("decode"),
                "thread, four": lambda: thread("four"),
                "process, four": lambda: process("four"),
                "thread, first": lambda: thread("first"),
                "process, first": lambda: process("first"),
            },
            rounds=ROUNDS,
        )
        crashes = [process("crash") for _ in range(3)]
        loads = [process("load") for _ in range(3)]
        inside = [thread("load") for _ in range(3)]
    return [
        at_least("decode, process ÷ thread", ratio(figures, "process", "thread"), 0.95),
        at_least(
            f"{N_STREAMS} streams, process ÷ thread", ratio(figures, "process, four", "thread, four"), 0.95
        ),
        plain("decode, process", median(figures["process"]), "tok/s"),
        plain("decode, thread", median(figures["thread"]), "tok/s"),
        plain("first token of a known prompt, process", 1e3 * median(figures["process, first"]), "ms"),
        plain("first token of a known prompt, thread", 1e3 * median(figures["thread, first"]), "ms"),
        plain("opening the Edge, process", 1e3 * median(loads), "ms"),
        plain("opening the Edge, thread", 1e3 * median(inside), "ms"),
        plain("from SIGKILL to the first token of the next question", 1e3 * median(crashes), "ms"),
    ]


def app(isolation: IsolationName) -> Contender:
    """An app with its figures."""
    edge = open_edge(isolation)
    return {
        "decode": lambda: edge_decode(edge),
        "four": lambda: together(edge),
        "first": lambda: first_token_s(edge),
        "crash": lambda: recovery_s(edge),
        "load": lambda: load_s(isolation),
    }


def open_edge(isolation: IsolationName) -> Edge:
    """The default model's."""
    return Edge(GGUF, n_ctx=N_CTX, ledger=False, isolation=isolation)


def together(edge: Edge) -> float:
    """Tokens per second of all streams together."""

    def ask(number: int) -> int:
        usage = edge.ask(f"{number}. {QUESTION}", max_tokens=N_TOKENS // 2).usage
        return usage.completion_tokens or 0

    began = time.perf_counter()
    with ThreadPoolExecutor(N_STREAMS) as pool:
        count = sum(pool.map(ask, range(N_STREAMS)))
    return count / (time.perf_counter() - began)


def first_token_s(edge: Edge) -> float:
    """Seconds from the question to its first token, when the prompt is in the cache."""
    edge.ask("Hi.", max_tokens=1)
    began = time.perf_counter()
    with edge.stream("Hi.", max_tokens=2) as stream:
        next(stream)
        return time.perf_counter() - began


def load_s(isolation: IsolationName) -> float:
    """Seconds to open an Edge; the libraries are loaded already in this process."""
    began = time.perf_counter()
    edge = open_edge(isolation)
    seconds = time.perf_counter() - began
    edge.close()
    return seconds


def recovery_s(edge: Edge) -> float:
    """Seconds that a crash costs the next question."""
    engine = edge._session.engine
    assert isinstance(engine, ProcessEngine)
    assert engine.pid is not None
    began = time.perf_counter()
    os.kill(engine.pid, signal.SIGKILL)
    with edge.stream("Hi.", max_tokens=2) as stream:
        next(stream)
    seconds = time.perf_counter() - began
    while engine.pid is None:
        time.sleep(0.01)
    return seconds
