"""The safetensors format: a JSON header, then the numbers. Read with numpy alone, bfloat16 included."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeai.converters.decoder import Floats
from edgeai.errors import ModelCorrupt, ModelNotFound, ModelUnsupported

_TYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I32": np.int32, "I64": np.int64}
WORDS = ("I32", "I64")
"""Whole numbers, which quantized checkpoints pack their weights into."""

_MAX_HEADER_BYTES = 100 << 20  # the format's own limit


@dataclass(frozen=True, slots=True)
class StoredMatrix:
    """A tensor in a mapped file, or some rows of it; ``kind`` is F32, F16 or BF16, or one of `WORDS`."""

    raw: NDArray[Any]
    kind: str

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.raw.shape[0], self.raw.shape[1]

    @property
    def size(self) -> int:
        """Numbers."""
        return int(self.raw.size)

    @property
    def n_bytes(self) -> int:
        """Bytes in the file."""
        return int(self.raw.nbytes)

    def part(self, rows: slice) -> "StoredMatrix":
        """Some of its rows, as a tensor."""
        return StoredMatrix(self.raw[rows], self.kind)

    def rows(self, start: int, stop: int) -> Floats:
        """Rows ``start`` to ``stop`` as floats."""
        return self.floats(slice(start, stop))

    def floats(self, part: slice = slice(None)) -> Floats:
        """The part as floats."""
        raw = np.ascontiguousarray(self.raw[part])
        if self.kind == "BF16":
            return (raw.astype(np.uint32) << 16).view(np.float32)
        return raw.astype(np.float32, copy=False)


def open_folder(folder: Path) -> dict[str, StoredMatrix]:
    """All tensors of a model folder by name, mapped, not read; raises ModelNotFound or ModelCorrupt."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict):
            raise ModelCorrupt(f"{index} names no files")
        names = sorted({str(name) for name in shards.values()})
    else:
        names = ["model.safetensors"]
    tensors: dict[str, StoredMatrix] = {}
    for name in names:
        if Path(name).name != name:
            raise ModelCorrupt(f"{index} names a file outside the folder", why=name)
        tensors.update(_open_file(folder / name))
    return tensors


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file; raises ModelNotFound or ModelCorrupt."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ModelNotFound(f"There is no file {path}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelCorrupt(f"{path} cannot be read", why=str(error)) from error
    if not isinstance(content, dict):
        raise ModelCorrupt(f"{path} is not a JSON object")
    return content


def _open_file(path: Path) -> dict[str, StoredMatrix]:
    if not path.is_file():
        raise ModelNotFound(f"There is no file {path}")
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
            raise ModelCorrupt(f"{path} is not a whole safetensors file")
        try:
            header = json.loads(stream.read(length))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        except (ValueError, AttributeError, RecursionError) as error:
            raise ModelCorrupt(f"{path} has a damaged header", why=str(error)) from error
    data = np.memmap(path, np.uint8, "r", offset=8 + length)
    return {name: _tensor(path, data, name, entry) for name, entry in entries.items()}


def _tensor(path: Path, data: NDArray[np.uint8], name: str, entry: Mapping[str, Any]) -> StoredMatrix:
    try:
        kind, shape, (start, stop) = str(entry["dtype"]), tuple(entry["shape"]), entry["data_offsets"]
        if kind not in _TYPES:
            raise ModelUnsupported(
                f"The number format {kind} cannot be converted",
                why=f"{name} in {path.name}; the converter reads {', '.join(_TYPES)}",
            )
        if not 0 <= start <= stop <= len(data):
            raise ValueError("it lies outside the file")
        return StoredMatrix(data[start:stop].view(_TYPES[kind]).reshape(shape), kind)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelCorrupt(f"{path.name}: the tensor {name} is damaged", why=str(error)) from error
