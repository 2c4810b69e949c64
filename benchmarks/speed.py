"""Decode and prefill of the default model: `Edge.stream` with its monitor on, a bare loop over the same
bindings, and llama-cpp-python's own chat stream; the same threads, prompt and number of tokens. The rounds
are interleaved; a ratio is the median of the rounds' ratios, a speed the median of the rounds.
"""

import ctypes
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import llama_cpp
import numpy as np

from benchmarks.table import Row, at_least, interleaved, plain, ratio
from edgeai import Done, Edge
from edgeai.devices.plan import plan
from edgeai.engines.llamacpp import binding
from edgeai.models import store

MODEL = "smollm2-135m-instruct"
QUESTION = "Explain quantum tunnelling to a ten-year-old, in detail, with an example from daily life."
N_CTX = 2048
N_TOKENS = 128
N_PROMPT = 512
ROUNDS = 9


class BareLoop:
    """llama_decode, argmax, llama_token_to_piece, and nothing else."""

    def __init__(self, path: Path, n_threads: int) -> None:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = N_CTX, 512, 512
        params.n_threads = params.n_threads_batch = n_threads
        self._model = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        self._n_vocab = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self._piece = ctypes.create_string_buffer(256)

    def prefill(self, tokens: list[int]) -> float:
        """Seconds to read the prompt, from an empty cache."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        started = time.perf_counter()
        self._decode(array, len(tokens))
        return time.perf_counter() - started

    def decode(self, tokens: list[int], n: int) -> float:
        """Seconds from the first of ``n`` greedy tokens to the last."""
        self.prefill(tokens)
        array = (llama_cpp.llama_token * 1)()
        array[0] = self._argmax()
        started = time.perf_counter()
        for _ in range(n - 1):
            self._decode(array, 1)
            array[0] = self._argmax()
            llama_cpp.llama_token_to_piece(self._vocab, array[0], self._piece, 256, 0, True)
        return time.perf_counter() - started

    def _decode(self, array: Any, n: int) -> None:  # noqa: ANN401  # a ctypes array
        if llama_cpp.llama_decode(self._context, llama_cpp.llama_batch_get_one(array, n)):
            raise RuntimeError("llama_decode failed")

    def _argmax(self) -> int:
        logits = np.ctypeslib.as_array(
            llama_cpp.llama_get_logits_ith(self._context, -1), shape=(self._n_vocab,)
        )
        return int(logits.argmax())


def measure() -> list[Row]:
    """The rows of the table. Takes about two minutes on two quiet cores."""
    assert binding.native is llama_cpp.llama_cpp  # and llama.cpp's log is quiet now
    path = store.pull(MODEL).path
    n_threads = plan(N_CTX, 8192).n_threads
    bare = BareLoop(path, n_threads)
    options = {"n_ctx": N_CTX, "n_threads": n_threads, "n_threads_batch": n_threads, "verbose": False}
    quiet, loud = (llama_cpp.Llama(str(path), logits_all=logits, **options) for logits in (False, True))
    with Edge(path, n_ctx=N_CTX, ledger=False) as edge:
        engine = edge._session.engine
        prompt = list(engine.tokenize(QUESTION))
        long_prompts = (
            f"{i} " + "The quick brown fox jumps over the lazy dog. " * 48 for i in itertools.count()
        )
        decode = interleaved(
            {
                "edge": lambda: edge_decode(edge),
                "bare": lambda: (N_TOKENS - 1) / bare.decode(prompt, N_TOKENS),
                "Llama": lambda: high_level(quiet),
                "Llama with logprobs": lambda: high_level(loud, logprobs=True, top_logprobs=1),
            },
            rounds=ROUNDS,
        )
        prefill = interleaved(
            {
                "edge": lambda: edge_prefill(edge, next(long_prompts)),
                "bare": lambda: bare_prefill(bare, engine.tokenize(next(long_prompts))),
            },
            rounds=ROUNDS,
        )
    return [
        at_least("decode, Edge.stream ÷ bare loop", ratio(decode, "edge", "bare"), 0.97),
        at_least("decode, Edge.stream ÷ Llama.create_chat_completion", ratio(decode, "edge", "Llama"), 1.6),
        at_least("the same with logprobs", ratio(decode, "edge", "Llama with logprobs"), 5),
        at_least("prefill, Edge.stream ÷ bare loop", ratio(prefill, "edge", "bare")),
        *(plain(f"decode, {name}", median(figures), "tok/s") for name, figures in decode.items()),
        *(plain(f"prefill, {name}", median(figures), "tok/s") for name, figures in prefill.items()),
    ]


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


def bare_prefill(bare: BareLoop, tokens: tuple[int, ...]) -> float:
    """Tokens per second of the bare loop."""
    return len(tokens[:N_PROMPT]) / bare.prefill(list(tokens[:N_PROMPT]))


def high_level(llama: Any, **options: Any) -> float:  # noqa: ANN401  # llama-cpp-python is untyped
    """Tokens per second of llama-cpp-python's own chat stream."""
    messages = [{"role": "user", "content": QUESTION}]
    stream: Iterator[dict[str, Any]] = llama.create_chat_completion(
        messages, stream=True, max_tokens=N_TOKENS, temperature=0.0, **options
    )
    stamps = [time.perf_counter() for part in stream if part["choices"][0]["delta"].get("content")]
    return (len(stamps) - 1) / (stamps[-1] - stamps[0])
