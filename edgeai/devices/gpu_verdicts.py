"""Whether GPUs compute a model as the processor does, found by a child process and kept in the data folder.

As with execution providers, what the library says of itself is not enough: a driver may crash, hang, or give
other numbers. A verdict belongs to the model's file, the devices, their drivers and llama.cpp's version.
"""

import json
import sys
from collections.abc import Sequence
from hashlib import sha256
from importlib.metadata import version
from time import perf_counter
from typing import TYPE_CHECKING, Final

from edgeai.devices.child import Ended, run_child
from edgeai.devices.providers import Verdict
from edgeai.devices.verdicts import keep, recalled
from edgeai.models.disk import remembered_sha256

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeai.engines.llamacpp.devices import Device
    from edgeai.models.shelf import InstalledModel

__all__ = ["CHILD", "gpu_verdict"]

CHILD: Final = (sys.executable, "-m", "edgeai.engines.llamacpp.gpu_child")
LIMIT_S: Final = 180.0
"""A driver compiles its programs when it is first used, which may take minutes on a slow device."""
LEAST_COSINE: Final = 0.99
MOST_KL: Final = 0.1
"""Nats a token: GPUs round inputs and sums in other ways than processors do, which costs hundredths."""
FORMAT: Final = 1


def gpu_verdict(
    model: "InstalledModel",
    backend: str,
    gpus: "Sequence[Device]",
    circumstances: "Mapping[str, str]",
    *,
    trying: bool,
    command: Sequence[str] = CHILD,
    limit_s: float = LIMIT_S,
) -> Verdict:
    """What is known of the model on all these devices of one backend; with ``trying`` it is found out.

    Raises nothing that the devices do.
    """
    digest = _digest(model, gpus, circumstances)
    known = recalled(digest)
    if known is not None:
        return known
    if not trying:
        remedy = "edgeai doctor tries it, and so does asking for the device"
        return Verdict(provider=backend, state="not tried", remedy=remedy)
    task = {"model": str(model.path.absolute()), "gpus": [device.name for device in gpus]}
    started = perf_counter()
    verdict = _judge(backend, run_child([*command, json.dumps(task)], limit_s), perf_counter() - started)
    keep(digest, verdict)
    return verdict


def _judge(backend: str, ended: Ended, seconds: float) -> Verdict:
    remedy = "Update the device's driver and llama-cpp-python, or use another device"
    if ended.failure is not None:
        return Verdict(provider=backend, state=ended.failure, seconds=seconds, why=ended.why, remedy=remedy)
    report = ended.report
    if "refused" in report:
        said = str(report["refused"])
        return Verdict(provider=backend, state="rejected", seconds=seconds, why=said, remedy=remedy)
    there, total = report["layers"]
    why = _objection(there, total, report["cosine"], report["kl"])
    return Verdict(
        provider=backend,
        state="works" if why is None else "rejected",
        node_share=there / total if total else 0.0,
        cosine=report["cosine"],
        max_difference=report["max_difference"],
        seconds=seconds,
        load_s=report["load_s"],
        why=why,
        remedy=None if why is None else remedy,
    )


def _objection(there: int, total: int, cosine: float, kl: float) -> str | None:
    if there < total or not total:
        return f"It took {there} of {total} layers"
    if not (cosine >= LEAST_COSINE and kl <= MOST_KL):
        bounds = f"cosine {cosine:.4f}, KL {kl:.4f}; {LEAST_COSINE} and {MOST_KL} are the bounds"
        return f"Its numbers are not the CPU's: {bounds}"
    return None


def _digest(model: "InstalledModel", gpus: "Sequence[Device]", circumstances: "Mapping[str, str]") -> str:
    devices = [f"{device.backend} {device.name} {device.description}" for device in gpus]
    facts = ["llama.cpp", FORMAT, version("llama-cpp-python"), devices, dict(circumstances)]
    return sha256(json.dumps([*facts, remembered_sha256(model.path)], sort_keys=True).encode()).hexdigest()
