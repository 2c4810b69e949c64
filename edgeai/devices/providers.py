"""Execution providers of ONNX Runtime: which there are, and which of them really work for a model.

Nothing that ONNX Runtime says of itself is believed: a provider works for a model after a process of its own
has run the model on it, in time, with most nodes on the provider and with the CPU's numbers.
`edgeai.devices.verdicts` keeps what came out.
"""

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Final, Literal

from edgeai.devices import compiled
from edgeai.devices.child import Ended, run_child

__all__ = [
    "CHILD",
    "LIMIT_S",
    "PROVIDERS",
    "Offer",
    "Provider",
    "State",
    "Verdict",
    "offers",
    "refusal",
    "try_provider",
]

State = Literal[
    "works", "no variant", "not tried", "rejected", "no memory", "crashed", "timed out", "not installed"
]
LIMIT_S: Final = 60.0
_SLOWEST: Final = 1_000_000  # bytes of a graph a second; compiling large ones takes minutes
LEAST_SHARE: Final = 0.5
LEAST_COSINE: Final = 0.99
_LEAST_OF_ANY: Final = 0.95  # of one output among others, such as a layer's keys
CHILD: Final = (sys.executable, "-m", "edgeai.devices.provider_child")
_IS_ARM: Final = platform.machine().lower() in ("aarch64", "arm64")
_CHIP: Final[Mapping[str, str]] = {} if _IS_ARM else {"soc_model": "60"}
"""Off Arm there is QNN's emulator only. It is to be a Snapdragon X Elite, whose profile is shipped: its
default, an older chip, refuses what that can do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One execution provider: our name, ONNX Runtime's, the packages that bring it, and its kind of device.

    ``plugin`` is the module of a package that is added to the usual onnxruntime. ``part_option`` is the
    option that picks one of its devices, ``cache_option`` the one that names a folder for what it compiles;
    with ``context`` it writes that as a graph of its own.
    """

    name: str
    native: str
    package: str
    kind: Literal["cpu", "gpu", "npu"]
    plugin: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    part_option: str | None = None
    cache_option: str | None = None
    context: bool = False


PROVIDERS: Final[Mapping[str, Provider]] = {
    provider.name: provider
    for provider in (
        Provider(name="cpu", native="CPUExecutionProvider", package="onnxruntime", kind="cpu"),
        Provider(name="cuda", native="CUDAExecutionProvider", package="onnxruntime-gpu", kind="gpu"),
        Provider(name="tensorrt", native="TensorrtExecutionProvider", package="onnxruntime-gpu", kind="gpu"),
        Provider(
            name="migraphx", native="MIGraphXExecutionProvider", package="onnxruntime-migraphx", kind="gpu"
        ),
        Provider(name="rocm", native="ROCMExecutionProvider", package="onnxruntime-rocm", kind="gpu"),
        Provider(name="directml", native="DmlExecutionProvider", package="onnxruntime-directml", kind="gpu"),
        Provider(
            name="coreml",
            native="CoreMLExecutionProvider",
            package="onnxruntime",
            kind="npu",
            part_option="MLComputeUnits",
            cache_option="ModelCacheDirectory",
        ),
        Provider(
            name="openvino",
            native="OpenVINOExecutionProvider",
            package="onnxruntime-openvino",
            kind="npu",
            plugin="onnxruntime_ep_openvino",
            options={"device_type": "NPU"},
            part_option="device_type",
            cache_option="cache_dir",
        ),
        Provider(
            name="qnn",
            native="QNNExecutionProvider",
            package="onnxruntime-qnn",
            kind="npu",
            plugin="onnxruntime_qnn",
            options={"backend_type": "htp", **_CHIP},
            part_option="backend_type",
            context=True,
        ),
        Provider(
            name="webgpu",
            native="WebGpuExecutionProvider",
            package="onnxruntime-ep-webgpu",
            kind="gpu",
            plugin="onnxruntime_ep_webgpu",
        ),
        Provider(name="vitisai", native="VitisAIExecutionProvider", package="AMD Ryzen AI", kind="npu"),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Whether the installed packages offer a provider; ``why`` they do not. It may still not work."""

    provider: Provider
    installed: bool
    is_plugin: bool = False
    why: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of trying a provider with a model.

    ``node_share`` (0 to 1) of the graph's nodes ran on it; ``cosine`` and ``max_difference`` compare its
    outputs with the CPU's; ``seconds`` the whole try took, ``load_s`` of them loading, which takes
    ``compiled_load_s`` with what was compiled. None: it did not come to that. ``plugin`` is the module that
    brought the provider, ``compiled`` the folder's name and the files of `edgeai.devices.compiled`.
    """

    provider: str
    state: State
    node_share: float | None = None
    cosine: float | None = None
    max_difference: float | None = None
    seconds: float = 0.0
    why: str | None = None
    remedy: str | None = None
    load_s: float | None = None
    compiled_load_s: float | None = None
    plugin: str | None = None
    compiled: tuple[str, Mapping[str, str]] | None = None

    def in_words(self) -> str:
        """The state, and why."""
        return f"{self.state}: {self.why}" if self.why else self.state


def offers(*, command: Sequence[str] = CHILD, limit_s: float = LIMIT_S) -> tuple[Offer, ...]:
    """What the installed packages offer, asked in a child process; empty if that fails."""
    plugins = {known.plugin: known.native for known in PROVIDERS.values() if known.plugin}
    report = run_child([*command, "list", json.dumps(plugins)], limit_s).report
    return tuple(_offer(provider, report) for provider in PROVIDERS.values()) if report else ()


def _offer(provider: Provider, report: Mapping[str, Any]) -> Offer:
    plugins: Mapping[str, str] = report["plugins"]
    if provider.plugin is not None and provider.plugin in plugins:
        why = plugins[provider.plugin] or None
        return Offer(provider=provider, installed=why is None, is_plugin=True, why=why)
    built_in = provider.native in report["built_in"]
    why = None if built_in else f"{provider.package} is not there"
    return Offer(provider=provider, installed=built_in, why=why)


def try_provider(
    offer: Offer,
    model: Path,
    *,
    dimensions: Sequence[str] = (),
    options: Mapping[str, str] | None = None,
    digest: str | None = None,
    command: Sequence[str] = CHILD,
    limit_s: float | None = None,
) -> Verdict:
    """Run the model on the provider in a child process. Raises nothing that the provider does.

    ``dimensions``: the names of the graph's dimensions without a size; they get one for the try.
    ``options`` replace the provider's usual ones. With a ``digest`` what the provider compiles is kept by it.
    ``limit_s``: seconds that it may take; None: `LIMIT_S`, and one more for each megabyte of the graph.
    """
    provider = offer.provider
    if not offer.installed:
        remedy = f"Install {provider.package}, for this system and with the device's driver"
        return Verdict(provider=provider.name, state="not installed", why=offer.why, remedy=remedy)
    task = {
        "model": str(model.absolute()),
        "provider": provider.native,
        "plugin": provider.plugin if offer.is_plugin else None,
        "options": dict(provider.options if options is None else options),
        "dimensions": list(dimensions),
        "compile": None if digest is None else _compile_task(provider, digest),
    }
    started = perf_counter()
    ended = run_child([*command, "try", json.dumps(task)], _limit_s(model) if limit_s is None else limit_s)
    verdict = _judge(provider, ended, perf_counter() - started)
    if offer.is_plugin:
        verdict = replace(verdict, plugin=provider.plugin)
    return verdict if digest is None else _with_compiled(verdict, digest)


def _limit_s(model: Path) -> float:
    """Its weights may lie in files beside it, whose names begin as its own."""
    size = sum(file.stat().st_size for file in model.parent.glob(f"{model.name}*")) if model.exists() else 0
    return LIMIT_S + size / _SLOWEST


def _compile_task(provider: Provider, digest: str) -> dict[str, str] | None:
    """Where the child leaves what it compiles, and how; None for a provider that does not say."""
    compiled.discard(digest)
    folder = compiled.folder_of(digest)
    if provider.context:
        return {"context": str(folder / compiled.CONTEXT)}
    return {"option": provider.cache_option, "folder": str(folder)} if provider.cache_option else None


def _with_compiled(verdict: Verdict, digest: str) -> Verdict:
    """The verdict with the files that are good; others are deleted."""
    files = compiled.listed(digest) if verdict.compiled_load_s is not None else {}
    if not files:
        compiled.discard(digest)
        return replace(verdict, compiled_load_s=None)
    compiled.make_room(digest)
    return replace(verdict, compiled=(digest, files))


def _judge(provider: Provider, ended: Ended, seconds: float) -> Verdict:
    if ended.failure is not None:
        remedy = f"Update {provider.package} and the device's driver, or use the CPU"
        return Verdict(
            provider=provider.name, state=ended.failure, seconds=seconds, why=ended.why, remedy=remedy
        )
    report = ended.report
    if "refused" in report:
        return Verdict(
            provider=provider.name,
            state="rejected",
            seconds=seconds,
            why=str(report["refused"]),
            remedy="Use another provider",
        )
    total = sum(report["nodes"].values())
    share = report["nodes"].get(provider.native, 0) / total if total else 0.0
    why = _objection(share, total, report["cosine"], report["least_cosine"])
    return Verdict(
        provider=provider.name,
        state="works" if why is None else "rejected",
        node_share=share,
        cosine=report["cosine"],
        max_difference=report["max_difference"],
        seconds=seconds,
        load_s=report.get("load_s"),
        compiled_load_s=report.get("compiled_load_s"),
        why=why,
        remedy=None if why is None else "Use another provider, or a variant of the model made for it",
    )


def refusal(provider: str, report: Mapping[str, Any], seconds: float, remedy: str) -> Verdict:
    """What a child says that was refused; for want of memory it is not for ever, and is not kept."""
    if report.get("memory"):
        remedy = "Free memory, of the device or of the machine, and try again; or use a smaller model"
    state: State = "no memory" if report.get("memory") else "rejected"
    return Verdict(provider=provider, state=state, seconds=seconds, why=str(report["refused"]), remedy=remedy)


def _objection(share: float, total: int, cosine: float, least: float) -> str | None:
    if share < LEAST_SHARE:
        return f"It took {share:.0%} of the {total} nodes; {LEAST_SHARE:.0%} are needed"
    if not cosine >= LEAST_COSINE:
        return f"Its numbers are not the CPU's: cosine {cosine:.4f}, below {LEAST_COSINE}"
    if not least >= _LEAST_OF_ANY:
        return f"One of its outputs is not the CPU's: cosine {least:.4f}, below {_LEAST_OF_ANY}"
    return None
