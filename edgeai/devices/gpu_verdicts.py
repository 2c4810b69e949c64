"""Whether GPUs compute a model as the processor does, found by a child process and kept in the data folder.

As with execution providers, what the library says of itself is not enough: a driver may crash, hang, or give
other numbers. A verdict belongs to the model's file, the devices, their drivers and the build of llama.cpp.
"""

import json
import os
import sys
from collections.abc import Sequence
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Final

from edgeai.devices.child import Ended, run_child
from edgeai.devices.drivers import stamp
from edgeai.devices.providers import Verdict, refusal
from edgeai.devices.verdicts import keep, recalled
from edgeai.models.disk import remembered_sha256

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeai.engines.llamacpp.devices import Device
    from edgeai.models.shelf import InstalledModel

__all__ = ["CHILD", "build_files", "gpu_verdict"]

CHILD: Final = (sys.executable, "-m", "edgeai.engines.llamacpp.gpu_child")
LIMIT_S: Final = 180.0
"""A driver compiles its programs when it is first used, which may take minutes on a slow device."""
LEAST_COSINE: Final = 0.99
MOST_KL: Final = 0.1
"""Nats a token: GPUs round inputs and sums in other ways than processors do, which costs hundredths."""
LEAST_SHARE: Final = 0.5
FORMAT: Final = 3


def gpu_verdict(
    model: "InstalledModel",
    backend: str,
    gpus: "Sequence[Device]",
    circumstances: "Mapping[str, str]",
    *,
    trying: bool,
    layers: int | None = None,
    command: Sequence[str] = CHILD,
    limit_s: float = LIMIT_S,
) -> Verdict:
    """What is known of the model on all these devices of one backend; with ``trying`` it is found out.

    It is tried with its last ``layers`` there, None for all; where all work, any number does.
    Raises nothing that the devices do.
    """
    digest, whole = (_digest(model, gpus, circumstances, count) for count in (layers, None))
    known = recalled(whole)
    if known is None or known.state != "works":  # with fewer layers there it may
        known = recalled(digest)
    if known is not None:
        return known
    if not trying:
        remedy = "edgeai doctor tries it, and so does asking for the device"
        return Verdict(provider=backend, state="not tried", remedy=remedy)
    names = [device.name for device in gpus]
    task = {"model": str(model.path.absolute()), "gpus": names, "layers": layers}
    started = perf_counter()
    ended = run_child([*command, "try", json.dumps(task)], limit_s)
    verdict = _judge(backend, ended, perf_counter() - started, layers)
    keep(digest, verdict, model.path)
    return verdict


def _judge(backend: str, ended: Ended, seconds: float, wanted: int | None) -> Verdict:
    remedy = "Update the device's driver and llama-cpp-python, or use another device"
    if ended.failure is not None:
        return Verdict(provider=backend, state=ended.failure, seconds=seconds, why=ended.why, remedy=remedy)
    report = ended.report
    if "refused" in report:
        return refusal(backend, report, seconds, remedy)
    there, total = report["layers"]
    asked = total if wanted is None else min(wanted, total)
    why = _few(there, total, asked, report["nodes"]) or _unlike(report["cosine"], report["kl"])
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


def _few(there: int, total: int, asked: int, nodes: Sequence[int]) -> str | None:
    """Layers are told by their products with weights, nodes are all that is computed."""
    if there < asked or not asked:
        return f"It took {there} of the {asked} layers that it was given"
    taken, every = nodes
    if taken < LEAST_SHARE * every * asked / total:
        return f"It took {taken} of {every} nodes, with {asked} of {total} layers"
    return None


def _unlike(cosine: float, kl: float) -> str | None:
    if not (cosine >= LEAST_COSINE and kl <= MOST_KL):
        bounds = f"cosine {cosine:.4f}, KL {kl:.4f}; {LEAST_COSINE} and {MOST_KL} are the bounds"
        return f"Its numbers are not the CPU's: {bounds}"
    return None


def _digest(
    model: "InstalledModel", gpus: "Sequence[Device]", circumstances: "Mapping[str, str]", layers: int | None
) -> str:
    devices = [f"{device.backend} {device.name} {device.description}" for device in gpus]
    build = [version("llama-cpp-python"), [stamp(file) for file in build_files()]]
    facts = ["llama.cpp", FORMAT, build, devices, dict(circumstances), layers]
    return sha256(json.dumps([*facts, remembered_sha256(model.path)], sort_keys=True).encode()).hexdigest()


def build_files() -> list[Path]:
    """The libraries of the installed llama.cpp, and the one that ``GGML_BACKEND_PATH`` names; loads none."""
    found = find_spec("llama_cpp")
    if found is None or found.origin is None:
        return []
    own = sorted((Path(found.origin).parent / "lib").glob("*ggml*"))
    return [*own, Path(os.environ["GGML_BACKEND_PATH"])] if os.environ.get("GGML_BACKEND_PATH") else own
