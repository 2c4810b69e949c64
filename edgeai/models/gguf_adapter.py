"""Checks a LoRA adapter's GGUF file against its model, before native code sees it."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NoReturn

from edgeai.errors import ModelCorrupt, ModelNotFound, ModelUnsupported
from edgeai.models.gguf import GgufHeader, read_header
from edgeai.models.gguf_reader import Reader, TensorInfo, Value
from edgeai.models.shelf import InstalledModel

__all__ = ["check_adapter", "check_adapters"]

_TYPES: Final = ("F32", "F16", "BF16", "Q8_0")
_HALVES: Final = (".lora_a", ".lora_b")
_FLIPPED: Final = "token_embd.weight"
"""Its halves are stored the other way round, because it is looked up and not multiplied."""


def check_adapters(model: InstalledModel, adapters: Mapping[str, Path]) -> None:
    """Check each of them against the installed model. Raises what `check_adapter` raises."""
    if model.manifest.engine != "llamacpp":
        raise ModelUnsupported(
            f"{model.id} runs on the engine {model.manifest.engine}, which takes no adapters",
            remedy="Use engine='llamacpp'",
        )
    header = read_header(model.path)
    for path in adapters.values():
        check_adapter(path, header)


def check_adapter(path: Path, model: GgufHeader) -> None:
    """Return if llama.cpp can apply the LoRA adapter at ``path`` to this model.

    Raises ModelNotFound, ModelCorrupt, or ModelUnsupported for an adapter of another kind or model.
    """
    values, tensors = _read(path)
    kind = (_value(values, "general.type"), _value(values, "adapter.type"))
    if kind != ("adapter", "lora") or "adapter.alora.invocation_tokens" in values:
        raise ModelUnsupported(
            f"{path.name} is no plain LoRA adapter", remedy="Convert it with llama.cpp's convert_lora_to_gguf"
        )
    architecture = _value(values, "general.architecture")
    if architecture != model.architecture:
        raise ModelUnsupported(
            f"{path.name} is for the architecture {str(architecture)[:40]!r}",
            why=f"The model has {model.architecture!r}",
        )
    alpha = _value(values, "adapter.lora.alpha")
    if not isinstance(alpha, float) or not math.isfinite(alpha):
        _wrong(path, f"adapter.lora.alpha is {alpha}")
    _check_tensors(path, tensors, {tensor.name: tensor.shape for tensor in model.tensors})


def _read(path: Path) -> tuple[dict[str, Value], tuple[TensorInfo, ...]]:
    try:
        with path.open("rb") as file:
            reader = Reader(file, path)
            n_tensors = reader.preamble()
            values = reader.values()
            return values, reader.tensors(n_tensors, values)
    except FileNotFoundError as error:
        raise ModelNotFound(f"There is no adapter at {path}") from error
    except OSError as error:
        raise ModelCorrupt(f"{path.name} cannot be read", why=error.strerror) from error


def _check_tensors(path: Path, tensors: tuple[TensorInfo, ...], known: Mapping[str, tuple[int, ...]]) -> None:
    """Each has its other half, and both fit the model's tensor of that name."""
    halves: dict[str, dict[str, tuple[int, ...]]] = {}
    for tensor in tensors:
        name, half = tensor.name[:-7], tensor.name[-7:]
        if half not in _HALVES or name not in known:
            _wrong(path, f"the model has nothing that the tensor {tensor.name[:80]!r} is for")
        if tensor.type not in _TYPES or len(tensor.shape) != len(known[name]):
            _wrong(path, f"the tensor {tensor.name} has the type {tensor.type} and the shape {tensor.shape}")
        halves.setdefault(name, {})[half] = tensor.shape
    if not halves:
        _wrong(path, "it has no tensors")
    for name, pair in halves.items():
        a, b = pair.get(".lora_a"), pair.get(".lora_b")
        if a is None or b is None or not _fits(a, b, known[name], flipped=name == _FLIPPED):
            _wrong(path, f"the halves of {name} have the shapes {a} and {b}, the model's has {known[name]}")


def _fits(a: tuple[int, ...], b: tuple[int, ...], whole: tuple[int, ...], *, flipped: bool) -> bool:
    if len(whole) < 2:
        return False
    if flipped:
        return (b[1], a[1]) == whole and a[0] == b[0]
    return (a[0], b[1]) == whole[:2] and a[1] == b[0] and a[2:] == b[2:] == whole[2:]


def _value(values: Mapping[str, Value], key: str) -> object:
    return values[key].value if key in values else None


def _wrong(path: Path, why: str) -> NoReturn:
    raise ModelCorrupt(f"{path.name} does not fit the model", why=why, remedy="Use the adapter's own model")
