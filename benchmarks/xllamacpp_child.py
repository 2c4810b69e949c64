"""The other side of `benchmarks.parallel`, run by a Python that has xllamacpp: ``MODEL THREADS PARALLEL``.

Each line on stdin is JSON, ``{"questions": […], "n": 32}``; the answer is a figure in tokens a second.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import xllamacpp  # type: ignore[import-not-found,unused-ignore]  # of the other environment


def serve(model: str, n_threads: int, parallel: int) -> None:
    """Answer until stdin ends."""
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx, params.n_parallel, params.kv_unified = 4096, parallel, True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = n_threads
    params.warmup = False
    params.port = 0
    server = xllamacpp.Server(params)
    print("ready", flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        print(tokens_per_second(server, task["questions"], task["n"]), flush=True)


def tokens_per_second(server: Any, questions: list[str], n: int) -> float:  # noqa: ANN401  # not ours
    """All questions at once."""

    def ask(question: str) -> int:
        messages = [{"role": "user", "content": question}]
        task = {"messages": messages, "max_tokens": n, "temperature": 0, "cache_prompt": False}
        answer = server.handle_chat_completions(task)
        return int(answer["usage"]["completion_tokens"])

    began = time.perf_counter()
    with ThreadPoolExecutor(len(questions)) as pool:
        total = sum(pool.map(ask, questions))
    return total / (time.perf_counter() - began)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
