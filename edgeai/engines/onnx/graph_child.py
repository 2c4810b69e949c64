"""The process in which a provider is tried with a package's ordinary graph, keys and values and all.

``python -m edgeai.engines.onnx.graph_child '{json}'`` reads short texts on it as the engine does and, after
it, on the CPU. The report is one line of JSON on the standard output.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgeai.engines import DevicePlan, Offload
from edgeai.engines.likeness import TEXTS, compare, rows_of
from edgeai.engines.onnx.context import Context
from edgeai.engines.onnx.facts import graph_file
from edgeai.engines.onnx.folder import read_folder
from edgeai.engines.onnx.proto import read_graph
from edgeai.engines.onnx.sessions import Sessions
from edgeai.engines.onnx.signature import read_signature
from edgeai.engines.onnx.tokenizer import PackageVocabulary
from edgeai.errors import EdgeError, OutOfMemory

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["tried"]

_CELLS: Final = 256


def tried(task: Mapping[str, Any]) -> dict[str, Any]:
    """Nodes by provider, the likeness with the CPU's logits, seconds; or a refusal."""
    path = graph_file(Path(task["model"]))
    offload = Offload(
        work="decode",
        provider=task["provider"],
        native=task["native"],
        graph=str(path),
        tokens=0,
        plugin=task["plugin"],
        options=task["options"],
    )
    try:
        started = perf_counter()
        sessions = Sessions(path, _plan(offload))
        load_s = perf_counter() - started
        nodes = sessions.first.nodes
        there = _logits(path, sessions)
    except EdgeError as error:
        return {"refused": str(error), "memory": isinstance(error, OutOfMemory)}
    run_s = perf_counter() - started - load_s
    here = _logits(path, Sessions(path, _plan()))
    cosine, kl, difference = compare(there, here)
    return {
        "nodes": nodes,
        "cosine": cosine,
        "kl": kl,
        "max_difference": difference,
        "load_s": load_s,
        "run_s": run_s,
    }


def _plan(*offloads: Offload) -> DevicePlan:
    return DevicePlan(n_ctx=_CELLS, n_threads=1, follow_load=False, spare_session=False, offloads=offloads)


def _logits(path: Path, sessions: Sessions) -> "NDArray[np.float64]":
    """Two sequences: a graph may mistake one's keys for another's."""
    folder = read_folder(path.parent)
    signature = read_signature(sessions.first, read_graph(path), folder)
    vocabulary = PackageVocabulary(folder, signature.n_vocab)
    context = Context(sessions, signature, n_ctx=_CELLS, n_seq=2)
    try:
        return np.stack([row for text in TEXTS for row in rows_of(context, vocabulary.tokenize(text))])
    finally:
        context.free()
        vocabulary.close()


def main(arguments: Sequence[str]) -> None:
    """Do what the argument says, and report."""
    report = os.dup(1)
    os.dup2(2, 1)  # native libraries print what they like
    os.write(report, (json.dumps(tried(json.loads(arguments[0]))) + "\n").encode())


if __name__ == "__main__":
    main(sys.argv[1:])
