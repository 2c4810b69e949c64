"""Decode and prefill of the default model on llama.cpp: `Edge.stream` with its monitor on, a bare loop over
the same bindings, context and thread, and llama-cpp-python's own chat stream in processes of their own; the
same number of threads, prompt and tokens. The rounds are interleaved; a ratio is the median of the rounds'
ratios, a speed the median of the rounds.
"""

import ctypes
import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack
from statistics import median
from typing import Any

import llama_cpp
import numpy as np

from benchmarks.table import Row, at_least, interleaved, plain, ratio
from benchmarks.workers import Contender, worker
from edgeai import Done, Edge
from edgeai.devices.plan import plan
from edgeai.engines.jobs import Job
from edgeai.engines.llamacpp.engine import LlamaCppEngine
from edgeai.engines.slots import Slot
from edgeai.models import store

MODEL = "smollm2-135m-instruct"
GGUF = "smollm2-135m-instruct@llamacpp-q4_1"
QUESTION = "Explain quantum tunnelling to a ten-year-old, in detail, with an example from daily life."
N_CTX = 2048
N_TOKENS = 128
ROUNDS = 5


def measure() -> list[Row]:
    """The rows of the table. Takes about a minute and a half on two quiet cores."""
    store.pull(MODEL)
    with ExitStack() as stack:
        ours = stack.enter_context(worker(edge_and_bare))
        llama = stack.enter_context(worker(llama_stream, False))
        logprobs = stack.enter_context(worker(llama_stream, True))
        figures = interleaved(
            {
                "Edge.stream": lambda: ours("decode"),
                "bare loop": lambda: ours("bare decode"),
                "Llama": lambda: llama("decode"),
                "Llama with logprobs": lambda: logprobs("decode"),
                "Edge.stream, prefill": lambda: ours("prefill"),
                "bare loop, prefill": lambda: ours("bare prefill"),
            },
            rounds=ROUNDS,
        )
    chat = "Llama.create_chat_completion(stream=True)"
    return [
        at_least("decode, Edge.stream ÷ bare loop", ratio(figures, "Edge.stream", "bare loop"), 0.97),
        at_least(f"decode, Edge.stream ÷ {chat}", ratio(figures, "Edge.stream", "Llama"), 1.6),
        at_least(
            "decode, the same with logprobs=True", ratio(figures, "Edge.stream", "Llama with logprobs"), 5
        ),
        at_least(
            "prefill, Edge.stream ÷ bare loop", ratio(figures, "Edge.stream, prefill", "bare loop, prefill")
        ),
        *(plain(name, median(values), "tok/s") for name, values in figures.items()),
    ]


def edge_and_bare() -> Contender:
    """Edge on llama.cpp, and a bare loop as a job on the same engine's thread."""
    edge = Edge(GGUF, n_ctx=N_CTX, threads=plan(N_CTX, 8192).n_threads, ledger=False)
    engine = edge._session.engine
    assert isinstance(engine, LlamaCppEngine)
    texts = (f"{i} " + "The quick brown fox jumps over the lazy dog. " * 48 for i in itertools.count())
    return {
        "decode": lambda: edge_decode(edge),
        "prefill": lambda: edge_prefill(edge, next(texts)),
        "bare decode": lambda: BareLoop(engine, engine.tokenize(QUESTION)).decode_tps(),
        "bare prefill": lambda: BareLoop(engine, engine.tokenize(next(texts))).prefill_tps(),
    }


class BareLoop:
    """llama_decode, argmax, llama_token_to_piece, and nothing else."""

    def __init__(self, engine: LlamaCppEngine, tokens: tuple[int, ...]) -> None:
        self._engine, self._tokens = engine, list(tokens)
        self._context: Any = engine._context
        self._piece = ctypes.create_string_buffer(256)
        self._vocab = llama_cpp.llama_model_get_vocab(engine._model.handle)
        self._batch = llama_cpp.llama_batch_init(1, 0, 1)
        self._seconds = 0.0

    def decode_tps(self) -> float:
        """Tokens per second from the first greedy token to the last."""
        self._run(self._decode, N_TOKENS)
        return (N_TOKENS - 1) / self._seconds

    def prefill_tps(self) -> float:
        """Tokens per second of reading the prompt, from an empty cache."""
        self._run(self._prefill, 1)
        return len(self._tokens) / self._seconds

    def _run(self, steps: Any, n: int) -> None:  # noqa: ANN401  # a generator function
        job = Job(prompt=self._tokens, need=len(self._tokens) + n, steps=steps)
        self._engine._scheduler.submit(job)
        job.done.result()
        llama_cpp.llama_batch_free(self._batch)

    def _prefill(self, slot: Slot) -> Iterator[None]:
        started = time.perf_counter()
        self._read(slot)
        self._seconds = time.perf_counter() - started
        self._forget(slot)
        yield

    def _decode(self, slot: Slot) -> Iterator[None]:
        self._read(slot)
        started = time.perf_counter()
        token = self._argmax()
        for position in range(len(self._tokens), len(self._tokens) + N_TOKENS - 1):
            self._step(slot.seq, token, position)
            token = self._argmax()
            llama_cpp.llama_token_to_piece(self._vocab, token, self._piece, 256, 0, True)
        self._seconds = time.perf_counter() - started
        self._forget(slot)
        yield

    def _read(self, slot: Slot) -> None:
        self._forget(slot)
        size = self._context.n_batch
        for start in range(0, len(self._tokens), size):
            self._context.add(self._tokens[start : start + size], start, slot.seq, outputs=1)
            self._context.decode()

    def _step(self, seq: int, token: int, position: int) -> None:
        batch = self._batch
        batch.n_tokens, batch.token[0], batch.pos[0], batch.logits[0] = 1, token, position, 1
        batch.n_seq_id[0], batch.seq_id[0][0] = 1, seq
        if llama_cpp.llama_decode(self._context._handle, batch):
            raise RuntimeError("llama_decode failed")

    def _argmax(self) -> int:
        row = llama_cpp.llama_get_logits_ith(self._context._handle, -1)
        return int(np.ctypeslib.as_array(row, (self._engine.info.n_vocab,)).argmax())

    def _forget(self, slot: Slot) -> None:
        self._context.forget(slot.seq)
        slot.n_past = 0


def edge_decode(edge: Edge) -> float:
    """Tokens per second as a reader of the stream sees them."""
    stamps = [time.perf_counter() for _ in edge.stream(QUESTION, max_tokens=N_TOKENS)]
    return (len(stamps) - 2) / (stamps[-2] - stamps[0])


def edge_prefill(edge: Edge, prompt: str) -> float:
    """Tokens per second of a prompt whose head is not in the cache."""
    *_, done = edge.stream(prompt, max_tokens=1)
    assert isinstance(done, Done)
    assert done.answer.timing.prefill_tps is not None
    return done.answer.timing.prefill_tps


def llama_stream(logprobs: bool) -> Contender:  # noqa: FBT001  # crosses a process by position
    """llama-cpp-python's own chat stream."""
    n_threads = plan(N_CTX, 8192).n_threads
    llama = llama_cpp.Llama(
        str(store.find(GGUF).path),
        n_ctx=N_CTX,
        n_threads=n_threads,
        n_threads_batch=n_threads,
        verbose=False,
        logits_all=logprobs,
    )
    options: dict[str, Any] = {"logprobs": True, "top_logprobs": 1} if logprobs else {}

    def decode() -> float:
        messages = [{"role": "user", "content": QUESTION}]
        stream: Any = llama.create_chat_completion(
            messages, stream=True, max_tokens=N_TOKENS, temperature=0.0, **options
        )
        stamps = [time.perf_counter() for part in stream if part["choices"][0]["delta"].get("content")]
        return (len(stamps) - 1) / (stamps[-1] - stamps[0])

    return {"decode": decode}
