"""Many queries at once on llama.cpp: tokens a second of all streams together, from asking to the last one's
end, prompts included; each question is another one. `llama_cpp.server` and xllamacpp's server in process get
the same questions with the same model, threads and lengths. What an interactive query feels is measured at
`Edge.stream`, alone and while 16 queries in the background want all there is. Rounds are interleaved; a ratio
is the median of the rounds' ratios. EDGEAI_XLLAMACPP_PYTHON names a Python that has xllamacpp.
"""

import ctypes
import itertools
import json
import os
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median, quantiles

from benchmarks.speed import GGUF
from benchmarks.table import Row, at_least, interleaved, plain, ratio
from benchmarks.workers import Contender, worker
from edgeai import Delta, Edge
from edgeai.devices.plan import plan
from edgeai.engines.llamacpp.binding import native, start
from edgeai.models import store
from tests.servers import llama_server

STREAMS = (1, 2, 4, 8, 16)
N_TOKENS = 32
N_CTX = 4096
ROUNDS = 3
LATENCIES = 12
FORMATS = {"Q4_1": None, "Q4_0": native.LLAMA_FTYPE_MOSTLY_Q4_0, "Q8_0": native.LLAMA_FTYPE_MOSTLY_Q8_0}
XLLAMACPP = os.environ.get("EDGEAI_XLLAMACPP_PYTHON", "")
TOPICS = ("tides", "bees", "glass", "volcanoes", "bread", "maps", "clocks", "rivers", "kites", "salt")


def measure() -> list[Row]:
    """The rows of the table. Takes about three minutes on two quiet cores."""
    with tempfile.TemporaryDirectory() as folder:
        files = {name: requantized(Path(folder), name) for name in FORMATS}
        return [*streams(files), *rivals(files["Q4_1"]), *latencies()]


def requantized(folder: Path, name: str) -> Path:
    """The default model in another format."""
    source, target = store.find(GGUF).path, folder / f"{name}.gguf"
    if FORMATS[name] is None:
        return source
    start()
    params = native.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = FORMATS[name], True
    if native.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(params)) != 0:
        raise SystemExit(f"The model could not be made {name}")
    return target


def streams(files: dict[str, Path]) -> list[Row]:
    """How much several streams give, for each format."""
    rows = []
    for name, file in files.items():
        with worker(edge_on, str(file)) as ours:
            contenders = {str(n): partial(ours, str(n)) for n in STREAMS}
            figures = interleaved(contenders, rounds=ROUNDS)
        rows += [plain(f"{name}, 1 stream", median(figures["1"]), "tok/s")]
        rows += [at_least(f"{name}, {n} streams ÷ 1", ratio(figures, str(n), "1")) for n in STREAMS[1:]]
    return rows


def rivals(file: Path) -> list[Row]:
    """Others under the same load."""
    with ExitStack() as stack:
        contenders: dict[str, Callable[[], float]] = {}
        ours = stack.enter_context(worker(edge_on, str(file)))
        server = stack.enter_context(llama_cpp_server(file))
        theirs = stack.enter_context(xllamacpp(file)) if XLLAMACPP else None
        for n in (1, 8):
            contenders[f"Edge, {n}"] = lambda n=n: ours(str(n))  # type: ignore[misc]  # n is bound
            contenders[f"llama_cpp.server, {n}"] = lambda n=n: server(n)  # type: ignore[misc]
            if theirs:
                contenders[f"xllamacpp, {n}"] = lambda n=n: theirs(n)  # type: ignore[misc]
        figures = interleaved(contenders, rounds=ROUNDS)
    rows = [
        at_least("8 streams, Edge ÷ llama_cpp.server", ratio(figures, "Edge, 8", "llama_cpp.server, 8"), 2)
    ]
    if theirs:
        rows += [
            at_least("8 streams, Edge ÷ xllamacpp", ratio(figures, "Edge, 8", "xllamacpp, 8"), 1.1),
            at_least("1 stream, Edge ÷ xllamacpp", ratio(figures, "Edge, 1", "xllamacpp, 1"), 1),
        ]
    return rows + [plain(f"{name} at once", median(values), "tok/s") for name, values in figures.items()]


def latencies() -> list[Row]:
    """An interactive query beside a saturating background, against alone: 95th percentiles."""
    with Edge(GGUF, n_ctx=N_CTX, parallel=8, ledger=False) as edge:
        alone = feel(edge, LATENCIES)
        with background(edge, 16):
            beside = feel(edge, LATENCIES)
    return (
        [
            at_most(f"interactive beside background ÷ alone, {what}", b / a, 2)
            for what, a, b in zip(
                ("p95 to the first token", "p95 between tokens"), alone, beside, strict=True
            )
        ]
        + [
            plain(f"interactive, p95 to the first token, {where}", found[0] * 1e3, "ms")
            for where, found in (("alone", alone), ("beside background", beside))
        ]
        + [
            plain(f"interactive, p95 between tokens, {where}", found[1] * 1e3, "ms")
            for where, found in (("alone", alone), ("beside background", beside))
        ]
    )


def at_most(what: str, value: float, aim: float) -> Row:
    """A ratio that should be no larger."""
    return Row(what=what, figure=f"{value:.2f}", aim=f"≤ {aim:g}", reached=value <= aim)


def feel(edge: Edge, n: int) -> tuple[float, float]:
    """95th percentiles of the seconds to the first token, and between tokens."""
    firsts, steps = [], []
    for number in range(n):
        asked = time.perf_counter()
        events = edge.stream(question(number), max_tokens=N_TOKENS)
        stamps = [time.perf_counter() for event in events if isinstance(event, Delta)]
        firsts.append(stamps[0] - asked)
        steps += [b - a for a, b in itertools.pairwise(stamps)]
    return quantiles(firsts, n=20)[-1], quantiles(steps, n=20)[-1]


@contextmanager
def background(edge: Edge, n: int) -> Iterator[None]:
    """``n`` threads that ask in the background, one question after the other."""
    over = threading.Event()

    def work(number: int) -> None:
        for turn in itertools.count():
            for _ in edge.stream(question(number * 1000 + turn), max_tokens=64, priority="background"):
                if over.is_set():
                    break
            if over.is_set():
                return

    threads = [threading.Thread(target=work, args=(number,)) for number in range(n)]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    yield
    over.set()
    for thread in threads:
        thread.join()


def question(number: int) -> str:
    """Another one for each number, with an answer that is long enough."""
    topic = TOPICS[number % len(TOPICS)]
    return (
        f"Question {number}: explain {topic} to a ten-year-old, in detail, with an example from daily life."
    )


def edge_on(file: str) -> Contender:
    """An Edge, and the tokens a second of so many streams at once."""
    n_threads = plan(N_CTX, N_CTX).n_threads  # as the rivals have
    edge = Edge(file, n_ctx=N_CTX, parallel=max(STREAMS), threads=n_threads, ledger=False, isolation="thread")
    numbers = itertools.count()

    def run(n: int) -> float:
        questions = [question(next(numbers)) for _ in range(n)]
        began = time.perf_counter()
        with ThreadPoolExecutor(n) as pool:
            answers = list(pool.map(lambda asked: edge.ask(asked, max_tokens=N_TOKENS), questions))
        seconds = time.perf_counter() - began
        return sum(answer.usage.completion_tokens or 0 for answer in answers) / seconds

    return {str(n): lambda n=n: run(n) for n in STREAMS}  # type: ignore[misc]  # n is bound


@contextmanager
def llama_cpp_server(file: Path) -> Iterator[Callable[[int], float]]:
    """llama-cpp-python's own server, and how to ask it for the same figure."""
    numbers = itertools.count(5000)
    n_threads = str(plan(N_CTX, N_CTX).n_threads)
    with llama_server(file, "--n_ctx", str(N_CTX), "--n_threads", n_threads) as server:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

        def ask(asked: str) -> int:
            messages = [{"role": "user", "content": asked}]
            body = {"messages": messages, "max_tokens": N_TOKENS, "temperature": 0}
            posted = urllib.request.Request(
                f"{server.url}/chat/completions",
                json.dumps(body).encode(),
                {"Content-Type": "application/json"},
            )
            with direct.open(posted, timeout=120) as answer:
                return int(json.load(answer)["usage"]["completion_tokens"])

        def run(n: int) -> float:
            questions = [question(next(numbers)) for _ in range(n)]
            began = time.perf_counter()
            with ThreadPoolExecutor(n) as pool:
                total = sum(pool.map(ask, questions))
            return total / (time.perf_counter() - began)

        yield run


@contextmanager
def xllamacpp(file: Path) -> Iterator[Callable[[int], float]]:
    """llama.cpp's own server in a Python process, and how to ask it for the same figure."""
    numbers = itertools.count(9000)
    child_file = str(Path(__file__).with_name("xllamacpp_child.py"))
    arguments = [str(file), str(plan(N_CTX, N_CTX).n_threads), "8"]
    with subprocess.Popen(
        [XLLAMACPP, child_file, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as child:
        assert child.stdin
        assert child.stdout
        child.stdout.readline()

        def run(n: int) -> float:
            task = {"questions": [question(next(numbers)) for _ in range(n)], "n": N_TOKENS}
            print(json.dumps(task), file=child.stdin, flush=True)
            assert child.stdout
            return float(child.stdout.readline())

        yield run
        child.stdin.close()
