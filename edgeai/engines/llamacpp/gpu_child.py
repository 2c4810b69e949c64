"""The process in which GPUs are tried with a model, because a driver may crash, hang, or compute wrongly.

``python -m edgeai.engines.llamacpp.gpu_child list`` tells which there are; ``try '{json}'`` runs the model on
some and, after it, on the processor. The report is one line of JSON on the standard output.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgeai.engines.likeness import TEXTS, compare, rows_of
from edgeai.engines.llamacpp import binding
from edgeai.engines.llamacpp.context import Context
from edgeai.engines.llamacpp.devices import devices
from edgeai.engines.llamacpp.model import Model
from edgeai.engines.llamacpp.watch import Watch
from edgeai.engines.pace import Pace
from edgeai.errors import EdgeError, OutOfMemory

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["tried"]

_CELLS: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ran:
    """The logits after each token of the texts, (n, vocabulary), and how long it took, in seconds."""

    logits: "NDArray[np.float64]"
    load_s: float
    run_s: float


def tried(task: Mapping[str, Any]) -> dict[str, Any]:
    """Layers and nodes on the GPUs and in all, the likeness with the processor's logits, seconds.

    Or a refusal. ``layers`` of the task are how many shall be there, None for all.
    """
    gpus = tuple(task["gpus"])
    try:
        watch = Watch(gpus)
        there = _run(Path(task["model"]), gpus, task["layers"], watch)
    except EdgeError as error:
        return {"refused": str(error), "memory": isinstance(error, OutOfMemory)}
    here = _run(Path(task["model"]))
    cosine, kl, difference = compare(there.logits, here.logits)
    return {
        "layers": watch.layers,
        "nodes": watch.nodes,
        "cosine": cosine,
        "kl": kl,
        "max_difference": difference,
        "load_s": there.load_s,
        "run_s": there.run_s,
        "cpu_run_s": here.run_s,
    }


def _run(
    path: Path, gpus: tuple[str, ...] = (), layers: int | None = None, watch: Watch | None = None
) -> _Ran:
    begin = perf_counter()
    model = Model(path, gpus=gpus, gpu_layers=layers)
    try:
        pace = Pace(max(1, (os.cpu_count() or 1) // 2), follow_load=False)
        context = Context(model, n_ctx=_CELLS, n_seq=1, pace=pace, watch=watch)
        loaded = perf_counter()
        try:
            rows = [row for text in TEXTS for row in rows_of(context, model.tokenize(text))]
        finally:
            context.free()
    finally:
        model.free()
    return _Ran(logits=np.stack(rows), load_s=loaded - begin, run_s=perf_counter() - loaded)


def main(arguments: Sequence[str]) -> None:
    """Do what the arguments say, and report."""
    report = os.dup(1)
    os.dup2(2, 1)  # native libraries print what they like
    binding.start()
    if arguments[0] == "list":
        found: dict[str, Any] = {"devices": [asdict(device) for device in devices()]}
    else:
        found = tried(json.loads(arguments[1]))
    os.write(report, (json.dumps(found) + "\n").encode())


if __name__ == "__main__":
    main(sys.argv[1:])
