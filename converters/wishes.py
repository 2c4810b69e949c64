"""What is wished becomes a package: in one format, or in the best that a search finds."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgeai.converters.device import Device
from edgeai.converters.encoder import open_encoder
from edgeai.converters.formats import Form, NpuQuant, meant
from edgeai.converters.gates import Gates
from edgeai.converters.origin import located
from edgeai.converters.picking import Found, search
from edgeai.converters.proof import Trial
from edgeai.converters.stages import Tell
from edgeai.converters.toolchain import Package
from edgeai.converters.toolchain import convert as convert_one
from edgeai.errors import ConfigError
from edgeai.models.package import MANIFEST, read_manifest

__all__ = ["Made", "convert"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The package; what a search compared it with, None without one; and what is to be told, in sentences."""

    package: Package
    found: Found | None = None
    told: tuple[str, ...] = ()


def convert(
    source: str | Path,
    out: str | Path,
    *,
    device: Device = Device(),  # noqa: B008  # frozen
    to: Form | Literal["auto"] = "auto",
    quant: str | None = None,
    size: int | None = None,
    npu: NpuQuant | Literal["auto", "none"] = "auto",
    goal: Literal["quality", "speed"] = "quality",
    name: str | None = None,
    gates: Gates = Gates(),  # noqa: B008  # frozen
    test: Trial = Trial(),  # noqa: B008  # frozen
    allow_large: bool = False,
    tell: Tell = lambda stage: None,
) -> Made:
    """Convert a `.gguf` file, a folder, an installed model or a hub id into ``out`` for a device; prove it.

    ``quant``: the name of a number format; "auto" searches for the best by ``goal``; None takes what is
    usual of the form ``to``, and searches where that is "auto". ``size``: bytes that a "mixed" package may
    have. ``npu``: a graph for NPUs beside that of an ONNX package; "auto": if the device wants one. ``gates``
    without a ``max_memory`` get the device's. ``out`` must not exist, and appears only when the package is
    whole and keeps all gates; what was interrupted goes on where it stopped.

    Raises GateFailed (its ``proof`` is what was measured, of a search a tuple of all), ModelError's leaves,
    ConfigError, OutOfMemory, DiskFull, MissingExtra, or DownloadFailed for a hub id.
    """
    gates = device.bounds(gates)
    form = meant(to, quant)
    if form is None and open_encoder(located(source)) is not None:
        form, quant = "onnx", None  # the one format that encoders have
    if form is not None:
        if goal != "quality":
            raise ConfigError(
                'goal="speed" is for a search', remedy='Use quant="auto", or leave the goal out'
            )
        package = convert_one(
            source, out, to=form, quant=quant, size=size, name=name, gates=gates, test=test,
            npu=_graph(npu, device, form), allow_large=allow_large, tell=tell,
        )  # fmt: skip
        return Made(package=package, told=tuple(_told(device, package, None)))
    if size is not None:
        raise ConfigError(
            "size is for one mixed package", remedy='Use quant="mixed", or for a search the gate max_size'
        )
    found = search(
        source, out, to=_searched(to, npu), goal=goal, pace=device.pace if device.here else None, name=name,
        gates=gates, test=test, npu=_graph(npu, device, "onnx"), allow_large=allow_large, tell=tell,
    )  # fmt: skip
    out = Path(out).expanduser()
    manifest = read_manifest(out) if (out / MANIFEST).is_file() else None
    package = Package(folder=out, manifest=manifest, proof=found.chosen)
    return Made(package=package, found=found, told=tuple(_told(device, package, found)))


def _graph(npu: NpuQuant | Literal["auto", "none"], device: Device, form: Form) -> NpuQuant | None:
    if npu == "auto":
        return device.graph() if form == "onnx" else None
    return None if npu == "none" else npu


def _searched(to: Form | Literal["auto"], npu: NpuQuant | Literal["auto", "none"]) -> Form | Literal["auto"]:
    """Forms among which a search picks: a graph that is asked for needs an ONNX package beside it."""
    if to == "hf":
        raise ConfigError(
            "A Hugging Face folder has no best number format", remedy="Give --quant f32, f16 or bf16"
        )
    if npu in ("auto", "none"):
        return to
    if to == "gguf":
        raise ConfigError("Graphs for NPUs are part of ONNX packages", remedy='Use to="onnx"')
    return "onnx"


def _told(device: Device, package: Package, found: Found | None) -> Iterator[str]:
    """What the wishes came to that no gate says."""
    compared = [package.proof] if found is None else [row.proof for row in found.rows]
    if device.too_slow(compared):
        what = "No format decodes" if found is not None else "It does not decode"
        yield f"{what} {device.pace:.0f} tokens a second, which the profile wants."
    if device.npu and found is not None and package.manifest and package.manifest.engine != "onnx":
        yield "The best has no graph for the NPU, which only ONNX packages have: --to onnx finds one."
