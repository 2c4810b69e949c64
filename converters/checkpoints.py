"""Quantized checkpoints of others, in Hugging Face folders: GPTQ (both versions), AWQ, compressed-tensors.

What is read is what ``quantization_config`` in ``config.json`` describes:

- ``gptq``: words along the inputs, zero points along the outputs, less one in the format's first version;
  ``g_idx`` has each input's group, in any order where the checkpoint was made with ``desc_act``
- ``awq`` in the layout ``gemm``: words along the outputs, in the order 0 2 4 6 1 3 5 7
- ``compressed-tensors`` in the format ``pack-quantized``: words along the inputs, those of zero points along
  the outputs
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeai.converters.packed_words import PackedMatrix, Words
from edgeai.converters.safetensors_file import WORDS, StoredMatrix
from edgeai.errors import ModelCorrupt, ModelUnsupported

__all__ = ["Scheme", "scheme_of", "unpacked"]

_REMEDY = "Give the checkpoint that it was made from"
_AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in a word the neighbours 0 to 7 are: the word holds 0 2 4 6 1 3 5 7."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """How a checkpoint is quantized. ``group`` of -1: a whole row. ``symmetric`` None: not said."""

    method: Literal["gptq", "awq", "compressed-tensors"]
    bits: int
    group: int
    shift: int = 0
    symmetric: bool | None = None

    def __str__(self) -> str:
        """For the record."""
        groups = "a scale for each row" if self.group == -1 else f"groups of {self.group}"
        return f"{self.method}, {self.bits} bits, {groups}"


def scheme_of(config: Mapping[str, Any]) -> Scheme | None:
    """What ``config.json`` says; None where the weights are plain.

    Raises ModelUnsupported for methods and settings that cannot be read, ModelCorrupt for what is incomplete.
    """
    said = config.get("quantization_config")
    if not said:
        return None
    if not isinstance(said, Mapping):
        raise ModelCorrupt("The quantization_config in config.json is no table")
    readers = {"gptq": _gptq, "awq": _awq, "compressed-tensors": _compressed}
    method = said.get("quant_method")
    if method not in readers:
        raise ModelUnsupported(
            f"Checkpoints quantized by {method!r} cannot be read",
            why=f"The converter knows {', '.join(readers)}",
            remedy=_REMEDY,
        )
    try:
        return readers[method](said)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelCorrupt(
            "The quantization_config in config.json is incomplete or wrong",
            why=f"{type(error).__name__}: {error}",
        ) from error


def unpacked(
    tensors: Mapping[str, StoredMatrix], scheme: Scheme | None
) -> dict[str, StoredMatrix | PackedMatrix]:
    """The tensors, with every packed matrix as one under its name in a plain checkpoint.

    Raises ModelCorrupt where parts are missing or do not fit together.
    """
    if scheme is None:
        _refuse_words(tensors)
        return dict(tensors)
    mark = ".weight_packed" if scheme.method == "compressed-tensors" else ".qweight"
    packed = {name.removesuffix(mark) for name in tensors if name.endswith(mark)}
    if not packed:
        raise ModelCorrupt(
            "The checkpoint has no packed matrix",
            why=f"config.json says that it is quantized: {scheme.method}",
        )
    found = {
        name: tensor
        for name, tensor in tensors.items()
        if name.rpartition(".")[0] not in packed or _plain(name)
    }
    _refuse_words(found)
    return found | {f"{name}.weight": _matrix(tensors, name, scheme) for name in sorted(packed)}


def _plain(name: str) -> bool:
    return name.endswith(".bias")


def _refuse_words(tensors: Mapping[str, StoredMatrix]) -> None:
    """Whole numbers are no weights, unless they are known as part of some."""
    strange = sorted(name for name, tensor in tensors.items() if tensor.kind in WORDS)
    if strange:
        raise ModelUnsupported(
            "The folder has tensors of whole numbers that config.json does not explain",
            why=", ".join(strange[:3]),
            remedy=_REMEDY,
        )


def _gptq(said: Mapping[str, Any]) -> Scheme:
    form = str(said.get("checkpoint_format") or said.get("format") or "gptq")
    _refuse(form not in ("gptq", "gptq_v2"), f"the layout {form}")
    changed = [k for k, v in (said.get("dynamic") or {}).items() if v and not k.startswith("-:")]
    _refuse(bool(changed), f"settings of its own for {', '.join(changed[:3])}")
    bits, symmetric = _bits(said["bits"]), said.get("sym")
    shift = 1 if form == "gptq" else 0
    return Scheme(
        method="gptq", bits=bits, group=_group(said["group_size"]), shift=shift, symmetric=symmetric
    )


def _awq(said: Mapping[str, Any]) -> Scheme:
    layout = str(said.get("version", "gemm")).lower()
    _refuse(layout != "gemm", f"the layout {layout}")
    bits = _bits(said.get("bits", said.get("w_bit")))
    _refuse(bits != 4, f"{bits} bits in AWQ's layout")
    group = said.get("group_size", said.get("q_group_size"))
    return Scheme(method="awq", bits=bits, group=_group(group))


def _compressed(said: Mapping[str, Any]) -> Scheme:
    for part in ("kv_cache_scheme", "transform_config"):
        _refuse(bool(said.get(part)), f"a {part}")
    schemes = {_arguments(group, said.get("format")) for group in said["config_groups"].values()}
    _refuse(len(schemes) != 1, "several settings for its layers")
    return schemes.pop()


def _arguments(group: Mapping[str, Any], everywhere: object) -> Scheme:
    form = str(group.get("format") or everywhere)
    _refuse(form != "pack-quantized", f"the format {form}")
    _refuse(bool(group.get("input_activations")), "activations that are rounded, too")
    weights = group["weights"]
    _refuse(weights.get("type", "int") != "int", f"the number type {weights.get('type')}")
    strategy = weights.get("strategy") or "group"
    _refuse(strategy not in ("group", "channel"), f"scales by {strategy}")
    size = _group(weights["group_size"]) if strategy == "group" else -1
    symmetric = bool(weights.get("symmetric", True))
    return Scheme(
        method="compressed-tensors", bits=_bits(weights["num_bits"]), group=size, symmetric=symmetric
    )


def _refuse(found: bool, what: str) -> None:  # noqa: FBT001  # a condition, not an option
    if found:
        raise ModelUnsupported(
            "This quantized checkpoint cannot be read", why=f"It has {what}", remedy=_REMEDY
        )


def _bits(value: object) -> int:
    bits = int(str(value))
    _refuse(bits not in (2, 4, 8), f"{bits} bits")
    return bits


def _group(value: object) -> int:
    size = -1 if value is None else int(str(value))
    if size != -1 and size < 1:
        raise ValueError(f"a group of {size}")
    return size


def _matrix(tensors: Mapping[str, StoredMatrix], name: str, scheme: Scheme) -> PackedMatrix:
    parts = _Parts(tensors, name, scheme)
    matrix = parts.compressed() if scheme.method == "compressed-tensors" else parts.transposed()
    _check(matrix, name, scheme)
    return matrix.named()


@dataclass(frozen=True, slots=True)
class _Parts:
    """The tensors that make one matrix."""

    tensors: Mapping[str, StoredMatrix]
    name: str
    scheme: Scheme

    def transposed(self) -> PackedMatrix:
        """GPTQ's and AWQ's, which have inputs first."""
        gptq, bits = self.scheme.method == "gptq", self.scheme.bits
        scales = self._need("scales", "F16", "BF16", "F32")
        scales = StoredMatrix(scales.raw.T, scales.kind)
        places = tuple(range(32 // bits)) if gptq else _AWQ_PLACES
        words = Words(
            raw=self._need("qweight", "I32").raw.T,
            bits=bits,
            along="inputs" if gptq else "outputs",
            places=places,
        )
        zeros = Words(raw=self._need("qzeros", "I32").raw.T, bits=bits, along="outputs", places=places)
        n_inputs = words.raw.shape[1] * (len(places) if gptq else 1)
        return PackedMatrix(
            shape=(scales.shape[0], n_inputs),
            codes=words,
            scales=scales,
            zeros=zeros,
            shift=self.scheme.shift,
            groups=self._groups("g_idx", n_inputs, scales.shape[1]),
        )

    def compressed(self) -> PackedMatrix:
        """The one of compressed-tensors."""
        bits = self.scheme.bits
        places = tuple(range(32 // bits))
        words = Words(raw=self._need("weight_packed", "I32").raw, bits=bits, along="inputs", places=places)
        scales = self._need("weight_scale", "F16", "BF16", "F32")
        zeros = None
        if not self.scheme.symmetric:
            raw = self._need("weight_zero_point", "I32").raw
            zeros = Words(raw=raw, bits=bits, along="outputs", places=places)
        shape = self.tensors.get(f"{self.name}.weight_shape")
        if shape is None or shape.raw.size != 2:
            raise ModelCorrupt(f"{self.name} has no weight_shape")
        n_outputs, n_inputs = (int(n) for n in shape.raw.reshape(-1))
        return PackedMatrix(
            shape=(n_outputs, n_inputs),
            codes=words,
            scales=scales,
            zeros=zeros,
            shift=0,
            groups=self._groups("weight_g_idx", n_inputs, scales.shape[1]),
        )

    def _need(self, part: str, *kinds: str) -> StoredMatrix:
        found = self.tensors.get(f"{self.name}.{part}")
        if found is None:
            raise ModelCorrupt(f"{self.name} has no {part}", why=f"{self.scheme.method} needs it")
        if found.raw.ndim != 2 or found.kind not in kinds:
            raise ModelCorrupt(
                f"{self.name}.{part} is not a matrix of {' or '.join(kinds)}",
                why=f"It has {found.raw.ndim} dimensions of {found.kind}",
            )
        return found

    def _groups(self, part: str, n_inputs: int, n_groups: int) -> NDArray[np.intp]:
        """The group of each input; in order, unless the checkpoint says otherwise."""
        stored = self.tensors.get(f"{self.name}.{part}")
        size = n_inputs if self.scheme.group == -1 else self.scheme.group
        if stored is None or _unset(stored.raw):
            found = np.arange(n_inputs) // size
        else:
            found = np.asarray(stored.raw.reshape(-1), np.intp)
        if len(found) != n_inputs or found.min(initial=0) < 0 or found.max(initial=-1) + 1 != n_groups:
            raise ModelCorrupt(
                f"The groups of {self.name} do not fit its scales",
                why=f"{n_inputs} inputs in groups of {size}, {n_groups} scales",
            )
        return found


def _unset(groups: NDArray[Any]) -> bool:
    """Some writers leave a list of minus ones where the order is the plain one."""
    return bool(groups.size and (groups == -1).all())


def _check(matrix: PackedMatrix, name: str, scheme: Scheme) -> None:
    """All parts must have the shapes that the others ask for, and zero points what the settings say."""
    fault = _fault(matrix)
    if fault is not None:
        raise ModelCorrupt(f"The parts of {name} do not fit together", why=fault)
    if scheme.symmetric and matrix.zeros is not None and not matrix.symmetric:
        raise ModelCorrupt(
            f"The zero points of {name} are not the middle, as its settings say",
            why="The version of the format in config.json may be wrong",
        )


def _fault(matrix: PackedMatrix) -> str | None:
    per, (n_outputs, n_inputs) = len(matrix.codes.places), matrix.shape
    rows, columns = -(-n_outputs // per), -(-n_inputs // per)
    wanted = (n_outputs, columns) if matrix.codes.along == "inputs" else (rows, n_inputs)
    if matrix.codes.raw.shape != wanted:
        return f"the words are {matrix.codes.raw.shape}, not {wanted}"
    if matrix.scales.shape[0] != n_outputs:
        return f"there are scales for {matrix.scales.shape[0]} outputs of {n_outputs}"
    if matrix.zeros is not None and matrix.zeros.raw.shape != (rows, matrix.scales.shape[1]):
        return f"the zero points are {matrix.zeros.raw.shape}, not {(rows, matrix.scales.shape[1])}"
    return None
