"""A GGUF file: metadata by type, tensors piece by piece."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeai.converters.blocks import FORMATS, Blocks, unpack
from edgeai.converters.decoder import Floats
from edgeai.errors import ModelCorrupt
from edgeai.models.gguf import TensorInfo, read_header

FLOATS = ("F32", "F16", "BF16")
"""The plain number formats that can be read."""


@dataclass(frozen=True, slots=True)
class GgufMatrix:
    """Rows of a tensor in the file, as bytes, in the order ``order``, or as they lie."""

    raw: NDArray[np.uint8]
    kind: str
    shape: tuple[int, int]
    order: NDArray[np.intp] | None = None

    def rows(self, start: int, stop: int) -> Blocks | Floats:
        """Rows ``start`` to ``stop``."""
        raw = self.raw[start:stop] if self.order is None else self.raw[self.order[start:stop]]
        raw = np.ascontiguousarray(raw)
        if self.kind in FORMATS:
            return unpack(self.kind, raw)
        if self.kind == "BF16":
            return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        return raw.view(np.float16 if self.kind == "F16" else np.float32).astype(np.float32, copy=False)


class GgufFile:
    """An open file, its header checked. Raises ModelNotFound, ModelCorrupt or ModelUnsupported."""

    def __init__(self, path: Path) -> None:
        self.path = path
        header = read_header(path, arrays=True)  # believes nothing; what follows may
        self.n_parameters = header.parameters
        self._metadata = header.metadata
        self._tensors = {tensor.name: tensor for tensor in header.tensors}
        self._data: NDArray[np.uint8] = np.memmap(path, np.uint8, "r")

    @property
    def tensors(self) -> Mapping[str, str]:
        """The format of each tensor, by name."""
        return {name: tensor.type for name, tensor in self._tensors.items()}

    @cached_property
    def sha256(self) -> str:
        """The hash of the whole file."""
        with self.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def text(self, key: str) -> str | None:
        """A string, or None."""
        value = self._value(key)
        return value if isinstance(value, str) else None

    def number(self, key: str) -> float | None:
        """A number, or None; lists of equal numbers count as one."""
        value = self._value(key)
        if isinstance(value, list) and value and len(set(value)) == 1:
            value = value[0]
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    def integer(self, key: str) -> int | None:
        """A whole number, or None."""
        value = self.number(key)
        return None if value is None else int(value)

    def flag(self, key: str) -> bool | None:
        """A truth value, or None."""
        value = self._value(key)
        return value if isinstance(value, bool) else None

    def texts(self, key: str) -> list[str] | None:
        """A list of strings, or None."""
        value = self._value(key)
        return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else None

    def numbers(self, key: str) -> list[float] | None:
        """A list of numbers (or truth values), or None."""
        value = self._value(key)
        if not isinstance(value, list) or not all(isinstance(item, int | float) for item in value):
            return None
        return value

    def matrix(self, name: str) -> GgufMatrix | None:
        """The tensor of that name, which must have two dimensions, or None."""
        tensor = self._tensors.get(name)
        if tensor is None:
            return None
        if len(tensor.shape) != 2:
            raise ModelCorrupt(f"{self.path.name}: {name} has {len(tensor.shape)} dimensions, expected 2")
        n_columns, n_rows = tensor.shape
        return GgufMatrix(self._rows(tensor, n_rows), tensor.type, (n_rows, n_columns))

    def floats(self, name: str) -> Floats | None:
        """The tensor of that name as a flat list of floats, or None."""
        tensor = self._tensors.get(name)
        if tensor is None:
            return None
        row = GgufMatrix(self._rows(tensor, 1), tensor.type, (1, prod(tensor.shape))).rows(0, 1)
        return (row.floats() if isinstance(row, Blocks) else row).reshape(-1)

    def _rows(self, tensor: TensorInfo, n_rows: int) -> NDArray[np.uint8]:
        return self._data[tensor.offset : tensor.offset + tensor.size].reshape(n_rows, -1)

    def _value(self, key: str) -> object:
        """A scalar, or a list; strings as text."""
        found = self._metadata.get(key)
        if not isinstance(found, tuple):
            return found
        try:
            return [item.decode() if isinstance(item, bytes) else item for item in found]
        except UnicodeDecodeError as error:
            raise ModelCorrupt(f"{self.path.name}: {key} has strings that are not UTF-8") from error
