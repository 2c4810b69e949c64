"""Decode beside other programs, as a reader of the stream sees it: `Edge`, which chooses its threads token
by token, against `Edge` with a fixed number of threads, whose threads wait for one another actively (as they
do by themselves) or passively, and llama-cpp-python's chat stream as it comes. All
in processes of their own, each of them for half a second in turn, beside each neighbour. The order changes
from round to round, and a quarter of a second before is not counted, for none of them: who worked until then
is no neighbour that is meant.
Speeds are tokens by the sum of their times; the best fixed setting is the fastest beside that neighbour.
"""

import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from statistics import quantiles
from typing import Any

import llama_cpp

from benchmarks.table import Row, at_least, plain
from benchmarks.workers import worker
from edgeai import Edge
from edgeai.devices.probe import usable_cores
from edgeai.engines.cores import Cores
from edgeai.load import Wanted, device_plan, open_planned
from edgeai.models import store

MODEL = "smollm2-135m-instruct"
GGUF = "smollm2-135m-instruct@llamacpp-q4_1"
QUESTION = "Explain quantum tunnelling to a ten-year-old, in detail, with an example from daily life."
N_CTX = 1024
N_TOKENS = 256
SLICE_S, WARM_S = 0.5, 0.25
ROUNDS = 7
COMING_ROUNDS = 14
PASSIVE = {"OMP_WAIT_POLICY": "passive"}  # of libgomp, which reads it once
ANSWERS = 2

SPINNER = "while True: pass"
BLAS = "import numpy\na = numpy.ones((1500, 1500))\nwhile True: a @ a"
COMING = """
import time
while True:
    end = time.monotonic() + 5
    while time.monotonic() < end: pass
    time.sleep(5)
"""
OURSELVES = f"""
from edgeai import Edge
edge = Edge({{}}, n_ctx={N_CTX}, ledger=False)
print("ready", flush=True)
while True: edge.ask({QUESTION!r}, max_tokens={N_TOKENS})
"""

Slices = Callable[[], list[float]]
Ask = Callable[[str], list[float]]


def measure() -> list[Row]:
    """The rows of the table. Takes four minutes, alone on the machine."""
    store.pull(MODEL)
    n = usable_cores()
    rows = [plain("cores that others use, before all", strangers(), "%")]
    with ExitStack() as stack:
        contenders = edges(stack, GGUF)
        contenders["Llama"] = stack.enter_context(worker(llama_slices))
        for name, programs in neighbours(n).items():
            rounds = ROUNDS if programs and COMING not in programs else COMING_ROUNDS
            with running(programs):
                steps, whole = in_turn(contenders, rounds), answers(contenders)
            rows += [*judged(name, steps), *against_llama(steps, whole)]
    return [*rows, plain("cores that others use, after all", strangers(), "%")]


def edges(stack: ExitStack, package: str) -> dict[str, Ask]:
    """`Edge` that follows the load, and with each fixed number of threads, active and passive."""
    n = usable_cores()
    found = {"Edge": stack.enter_context(worker(edge_slices, package, None, "active"))}
    for count in sorted({1, min(2, n), max(1, n // 2), n}):
        found[f"{count}"] = stack.enter_context(worker(edge_slices, package, count, "active"))
        if count > 1:
            passive = worker(edge_slices, package, count, "passive", environment=PASSIVE)
            found[f"{count} passive"] = stack.enter_context(passive)
    return found


def in_turn(contenders: Mapping[str, Ask], rounds: int) -> dict[str, list[float]]:
    """The times of the tokens of each; who begins a round ends the next."""
    steps: dict[str, list[float]] = {key: [] for key in contenders}
    order = list(contenders)
    for _ in range(rounds):
        for key in order:
            steps[key] += contenders[key]("decode")
        order.append(order.pop(0))
    return steps


def answers(contenders: Mapping[str, Ask]) -> dict[str, list[float]]:
    """Seconds of whole answers, ours and Llama's in turn."""
    found: dict[str, list[float]] = {"Edge": [], "Llama": []}
    for _ in range(ANSWERS):
        for key, times in found.items():
            times += contenders[key]("answer")
    return found


def neighbours(n: int, package: str = GGUF) -> dict[str, list[str]]:
    """The programs beside which all run, on ``n`` cores; a second `Edge` has this package."""
    return {
        "nobody": [],
        "a spinning loop": [SPINNER],
        "one on each core": [SPINNER] * n,
        "two on each core": [SPINNER] * 2 * n,
        "a BLAS job on all cores": [BLAS],
        "a second `Edge`": [OURSELVES.format(repr(package))],
        "one on each core for 5 s of 10": [COMING] * n,
    }


def strangers() -> float:
    """Percent of a core that programs use which are not ours."""
    cores = Cores()
    cores.free(1)
    time.sleep(1)
    return 100 * (cores.others() or 0.0)


def judged(name: str, steps: Mapping[str, list[float]]) -> list[Row]:
    """What the steps beside one neighbour say of following the load."""
    speed = {key: len(times) / sum(times) for key, times in steps.items()}
    best = max(speed.keys() - {"Edge", "Llama"}, key=speed.__getitem__)
    tail = {key: quantiles(times, n=100)[98] if len(times) > 1 else times[0] for key, times in steps.items()}
    figures = ", ".join(f"{speed[key]:.0f} with {key}" for key in speed if key != "Edge")
    tails = ", ".join(f"{key} {seconds * 1e3:.0f}" for key, seconds in tail.items())
    return [
        at_least(f"beside {name}: speed ÷ the best fixed ({best})", speed["Edge"] / speed[best], 0.9),
        at_most(
            f"p99 of a token's time ÷ that of the best fixed; ms: {tails}", tail["Edge"] / tail[best], 1.5
        ),
        plain(f"speed; fixed: {figures}", speed["Edge"], "tok/s"),
    ]


def against_llama(steps: Mapping[str, list[float]], whole: Mapping[str, list[float]]) -> list[Row]:
    """What they say of llama-cpp-python's defaults."""
    speed = {key: len(times) / sum(times) for key, times in steps.items()}
    return [
        at_least("speed ÷ Llama", speed["Edge"] / speed["Llama"], 1.1),
        at_least(
            "whole answers (a new prompt of 100 tokens, 32 tokens) in the time of Llama's",
            sum(whole["Llama"]) / sum(whole["Edge"]),
            1.1,
        ),
    ]


def at_most(what: str, value: float, aim: float) -> Row:
    """A ratio that should not be larger."""
    return Row(what=what, figure=f"{value:.2f}", aim=f"≤ {aim:g}", reached=value <= aim)


@contextmanager
def running(programs: list[str]) -> Iterator[None]:
    """Neighbours, in a process each, until the end of the block."""
    kids = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for code in programs]
    try:
        for kid, code in zip(kids, programs, strict=True):
            if "ready" in code:
                assert kid.stdout is not None
                kid.stdout.readline()
        time.sleep(1)
        yield
    finally:
        for kid in kids:
            kid.kill()
            kid.communicate()
        time.sleep(0.5)


def edge_slices(package: str, threads: int | None, waiting: str) -> dict[str, Slices]:
    """`Edge` with this number of threads, None for its own choice.

    llama.cpp waits as the environment says, ONNX Runtime as the plan does.
    """
    model = store.find(package)
    plan = device_plan(model, Wanted(n_ctx=N_CTX, threads=threads))
    plan = replace(plan, spin_us=0) if waiting == "passive" else plan
    edge = Edge(engine=open_planned(model, plan), ledger=False)
    prompts = new_prompts()
    return {
        "decode": lambda: gaps(lambda: edge.stream(QUESTION, max_tokens=N_TOKENS)),
        "answer": lambda: [seconds(lambda: edge.stream(next(prompts), max_tokens=32))],
    }


def llama_slices() -> dict[str, Slices]:
    """llama-cpp-python as it comes: half of the cores, at least one."""
    llama = llama_cpp.Llama(str(store.find(GGUF).path), n_ctx=N_CTX, verbose=False)

    def stream(prompt: str, n_tokens: int) -> Iterator[Any]:
        messages: Any = [{"role": "user", "content": prompt}]
        parts: Any = llama.create_chat_completion(messages, stream=True, max_tokens=n_tokens, temperature=0.0)
        return (part for part in parts if part["choices"][0]["delta"].get("content"))

    prompts = new_prompts()
    return {
        "decode": lambda: gaps(lambda: stream(QUESTION, N_TOKENS)),
        "answer": lambda: [seconds(lambda: stream(next(prompts), 32))],
    }


def new_prompts() -> Iterator[str]:
    """Prompts of about 100 tokens that share no head."""
    return (f"{i} foxes. " + "The quick brown fox jumps over the lazy dog. " * 9 for i in itertools.count())


def seconds(stream: Callable[[], Iterator[Any]]) -> float:
    """How long one whole answer takes."""
    began = time.perf_counter()
    for _ in stream():
        pass
    return time.perf_counter() - began


def gaps(stream: Callable[[], Iterator[Any]]) -> list[float]:
    """The times between the tokens of one answer after another, for the length of a slice, once warm."""
    found: list[float] = []
    begin = time.perf_counter() + WARM_S
    end = begin + SLICE_S
    while time.perf_counter() < end or not found:
        stamps: list[float] = []
        answer = stream()
        for _ in answer:
            stamps.append(time.perf_counter())
            if stamps[-1] > end and len(stamps) > 1:
                break
        getattr(answer, "close", lambda: None)()
        found += [later - earlier for earlier, later in itertools.pairwise(stamps) if later > begin]
    return found
