"""ONNX Runtime under `Edge` and under onnxruntime-genai, on one graph: the default model's weights, built by
onnxruntime-genai's own builder at int4. Each in a process of its own, with the same number of threads, in
interleaved rounds. `make bench-genai` makes the environment that the builder needs.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from benchmarks.speed import GGUF, MODEL, N_CTX, N_TOKENS, QUESTION, edge_decode, edge_prefill
from benchmarks.table import Row, at_least, interleaved, plain, ratio
from benchmarks.workers import Contender, worker
from edgeai import Edge
from edgeai.devices.plan import plan
from edgeai.models import store
from edgeai.prepare import prepare

CHILD = Path(__file__).parent / "genai_child.py"
PYTHON = os.environ.get("EDGEAI_GENAI_PYTHON", "")
ROUNDS = 5
LONG = "The quick brown fox jumps over the lazy dog. " * 48


def measure() -> list[Row]:
    """The rows of the table. Takes about two minutes on two quiet cores, half of it building the graph."""
    if not PYTHON:
        raise SystemExit("EDGEAI_GENAI_PYTHON names no Python with onnxruntime-genai: use `make bench-genai`")
    prepare(MODEL)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        made = build(Path(folder))
        ours = stack.enter_context(worker(edge_on, str(made)))
        theirs = stack.enter_context(genai(made))
        with Edge(made, engine="onnx", n_ctx=N_CTX, ledger=False) as edge:
            question, long = (list(edge._session.engine.tokenize(text)) for text in (QUESTION, LONG))
        figures = interleaved(
            {
                "Edge, decode": lambda: ours("decode"),
                "genai, decode": lambda: theirs("decode", question, N_TOKENS),
                "Edge, prefill": lambda: ours("prefill"),
                "genai, prefill": lambda: theirs("prefill", long, 1),
            },
            rounds=ROUNDS,
        )
    return [
        at_least(
            "decode, Edge.stream ÷ onnxruntime-genai", ratio(figures, "Edge, decode", "genai, decode"), 1.0
        ),
        at_least(
            "prefill, Edge.stream ÷ onnxruntime-genai", ratio(figures, "Edge, prefill", "genai, prefill"), 1.0
        ),
        *(plain(name, median(values), "tok/s") for name, values in figures.items()),
    ]


def build(folder: Path) -> Path:
    """The builder's graph of the default model in ``folder``."""
    package = next(model for model in prepare(MODEL) if model.manifest.engine == "onnx")
    arguments = [str(store.find(GGUF).path), str(package.folder), str(folder)]
    subprocess.run([PYTHON, str(CHILD), "build", *arguments], check=True)
    return folder / "made"


def edge_on(folder: str) -> Contender:
    """An Edge on that graph."""
    edge = Edge(folder, engine="onnx", n_ctx=N_CTX, ledger=False)
    texts = (f"{i} {LONG}" for i in range(1000))
    return {"decode": lambda: edge_decode(edge), "prefill": lambda: edge_prefill(edge, next(texts))}


@contextmanager
def genai(folder: Path) -> Iterator[Callable[[str, list[int], int], float]]:
    """A child process with onnxruntime-genai on that graph, and how to ask it for a figure."""
    n_threads = plan(N_CTX, N_CTX).n_threads
    with subprocess.Popen(
        [PYTHON, str(CHILD), "serve", str(folder), str(n_threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin
        assert child.stdout
        child.stdout.readline()

        def ask(what: str, ids: list[int], n: int) -> float:
            print(json.dumps({"what": what, "ids": ids, "n": n}), file=child.stdin, flush=True)
            assert child.stdout
            return float(child.stdout.readline())

        yield ask
        child.stdin.close()
