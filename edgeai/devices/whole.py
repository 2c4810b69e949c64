"""Providers that decode with a package's ordinary graph: those of GPUs, which take any length of text.

They are tried as the engine uses them, in a process of its own: keys and values lie in the machine's memory,
and go to and fro. Verdicts are kept as those on graphs of their own are.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from hashlib import sha256
from time import perf_counter
from typing import TYPE_CHECKING, Final

from edgeai.devices.child import Ended, run_child
from edgeai.devices.gpu_verdicts import LEAST_COSINE, MOST_KL
from edgeai.devices.providers import LEAST_SHARE, Offer, Provider, Verdict, refusal
from edgeai.devices.verdicts import keep, packages, recalled
from edgeai.engines import Offload

if TYPE_CHECKING:
    from edgeai.models.shelf import InstalledModel

__all__ = ["CHILD", "decoder_offload", "decoder_verdict", "decodes", "known_verdict"]

CHILD: Final = (sys.executable, "-m", "edgeai.engines.onnx.graph_child")
LIMIT_S: Final = 180.0
FORMAT: Final = 1


def decodes(model: "InstalledModel", provider: Provider, part: str | None = None) -> bool:
    """Whether it is worth trying: a decoder, on a GPU, or on OpenVINO's device that is no NPU."""
    elsewhere = provider.name == "openvino" and part is not None and not part.startswith("NPU")
    return model.manifest.head is None and (provider.kind == "gpu" or elsewhere)


def known_verdict(
    model: "InstalledModel", provider: Provider, options: Mapping[str, str], circumstances: Mapping[str, str]
) -> Verdict | None:
    """What an earlier `decoder_verdict` has found."""
    return recalled(_digest(model, provider, options, circumstances))


def decoder_verdict(
    model: "InstalledModel",
    offer: Offer,
    options: Mapping[str, str],
    circumstances: Mapping[str, str],
    *,
    command: Sequence[str] = CHILD,
    limit_s: float = LIMIT_S,
) -> Verdict:
    """Whether the provider decodes with the graph as the CPU does. Raises nothing that the provider does."""
    provider = offer.provider
    if (known := known_verdict(model, provider, options, circumstances)) is not None:
        return known
    if not offer.installed:
        remedy = f"Install {provider.package}, for this system and with the device's driver"
        return Verdict(provider=provider.name, state="not installed", why=offer.why, remedy=remedy)
    plugin = provider.plugin if offer.is_plugin else None
    task = {
        "model": str(model.path.absolute()),
        "provider": provider.name,
        "native": provider.native,
        "plugin": plugin,
        "options": dict(options),
    }
    started = perf_counter()
    ended = run_child([*command, json.dumps(task)], limit_s)
    verdict = _judge(provider, ended, perf_counter() - started, plugin)
    keep(_digest(model, provider, options, circumstances), verdict, model.path)
    return verdict


def decoder_offload(
    model: "InstalledModel",
    provider: Provider,
    options: Mapping[str, str],
    plugin: str | None,
    *,
    required: bool,
) -> Offload:
    """Decoding, and all that comes before it, on the provider."""
    return Offload(
        work="decode",
        provider=provider.name,
        native=provider.native,
        graph=str(model.path.absolute()),
        tokens=0,
        plugin=plugin,
        options=dict(options),
        required=required,
    )


def _judge(provider: Provider, ended: Ended, seconds: float, plugin: str | None) -> Verdict:
    remedy = f"Update {provider.package} and the device's driver, or use llama.cpp or another provider"
    if ended.failure is not None:
        return Verdict(
            provider=provider.name, state=ended.failure, seconds=seconds, why=ended.why, remedy=remedy
        )
    report = ended.report
    if "refused" in report:
        return refusal(provider.name, report, seconds, remedy)
    total = sum(report["nodes"].values())
    share = report["nodes"].get(provider.native, 0) / total if total else 0.0
    why = None
    if share < LEAST_SHARE:
        why = f"It took {share:.0%} of the {total} nodes; {LEAST_SHARE:.0%} are needed"
    elif not (report["cosine"] >= LEAST_COSINE and report["kl"] <= MOST_KL):
        found = f"cosine {report['cosine']:.4f}, KL {report['kl']:.4f}"
        bounds = f"{found}; {LEAST_COSINE} and {MOST_KL} are the bounds"
        why = f"It took {share:.0%} of the nodes, but its numbers are not the CPU's: {bounds}"
    return Verdict(
        provider=provider.name,
        state="works" if why is None else "rejected",
        node_share=share,
        cosine=report["cosine"],
        max_difference=report["max_difference"],
        seconds=seconds,
        load_s=report["load_s"],
        plugin=plugin,
        why=why,
        remedy=None if why is None else remedy,
    )


def _digest(
    model: "InstalledModel", provider: Provider, options: Mapping[str, str], circumstances: Mapping[str, str]
) -> str:
    files = [[file.path, file.sha256, file.size] for file in model.manifest.files]
    facts = ["whole", FORMAT, provider.name, dict(options), files, dict(circumstances), packages()]
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
