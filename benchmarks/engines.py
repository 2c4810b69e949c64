"""The default model on both engines, each in a process of its own, in interleaved rounds: ONNX Runtime with
the package that `edgeai models pull` makes (8 bit), llama.cpp with the GGUF file it was made from (4 bit).
Memory is what the process alone holds (USS) after loading and one answer, Python included. The conversion is
that of the GGUF file to the 8-bit package, with the most memory that its process ever had.
"""

import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from statistics import median

import psutil

from benchmarks.speed import GGUF, MODEL, N_CTX, edge_decode, edge_prefill
from benchmarks.table import Row, at_least, interleaved, plain, ratio
from benchmarks.workers import Contender, worker
from edgeai import Edge
from edgeai.devices.probe import usable_cores
from edgeai.models import store
from edgeai.prepare import prepare

ROUNDS = 7
CONVERSIONS = 3
CONVERT = """
import resource, sys, time
from edgeai.converters.onnx_package import export
start = time.perf_counter()
export(sys.argv[1], sys.argv[2])
unit = 1e6 if sys.platform == "darwin" else 1e3
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)
"""


def measure() -> list[Row]:
    """The rows of the table. Takes about a minute on two quiet cores."""
    prepare(MODEL)
    with ExitStack() as stack:
        onnx = stack.enter_context(worker(one_engine, "onnx"))
        llama = stack.enter_context(worker(one_engine, "llamacpp"))
        figures = interleaved(
            {
                "onnx, decode": lambda: onnx("decode"),
                "llamacpp, decode": lambda: llama("decode"),
                "onnx, prefill": lambda: onnx("prefill"),
                "llamacpp, prefill": lambda: llama("prefill"),
            },
            rounds=ROUNDS,
        )
        sizes = {name: ask("memory") for name, ask in (("onnx", onnx), ("llamacpp", llama))}
        loads = {name: ask("load") for name, ask in (("onnx", onnx), ("llamacpp", llama))}
    return [
        at_least("decode, onnx ÷ llamacpp", ratio(figures, "onnx, decode", "llamacpp, decode")),
        at_least("prefill, onnx ÷ llamacpp", ratio(figures, "onnx, prefill", "llamacpp, prefill")),
        *(plain(name, median(values), "tok/s") for name, values in figures.items()),
        *(plain(f"{name}, memory", size, "MB") for name, size in sizes.items()),
        *(plain(f"{name}, opening the Edge", seconds * 1e3, "ms") for name, seconds in loads.items()),
        *conversion(),
    ]


def conversion() -> list[Row]:
    """How long the default model's conversion takes, and how much memory, in a process of its own."""
    seconds, megabytes = [], []
    for _ in range(CONVERSIONS):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-c", CONVERT, str(store.find(GGUF).path), f"{folder}/package"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        taken, peak = map(float, done.stdout.split())
        seconds.append(taken)
        megabytes.append(peak)
    return [
        plain("conversion, GGUF to ONNX", median(seconds), "s"),
        plain("conversion, memory at its peak", median(megabytes), "MB"),
    ]


def one_engine(name: str) -> Contender:
    """An Edge on this engine."""
    started = time.perf_counter()
    edge = Edge(MODEL, engine=name, n_ctx=N_CTX, threads=usable_cores(), ledger=False)  # type: ignore[arg-type]  # one of the names
    load_s = time.perf_counter() - started
    texts = (f"{i} " + "The quick brown fox jumps over the lazy dog. " * 48 for i in range(1000))
    return {
        "decode": lambda: edge_decode(edge),
        "prefill": lambda: edge_prefill(edge, next(texts)),
        "memory": lambda: psutil.Process().memory_full_info().uss / 1e6,
        "load": lambda: load_s,
    }
