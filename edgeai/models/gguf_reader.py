"""Reads the entries and the tensor table of a GGUF file, every length compared with the file's size first."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import BinaryIO

from edgeai.errors import ModelCorrupt, ModelUnsupported
from edgeai.models.ggml import WEIGHT_TYPES

__all__ = ["STRING", "Array", "Reader", "Scalar", "TensorInfo", "Value"]

MAX_HEADER_BYTES = 64 << 20
MAX_TENSORS = 1 << 14
MAX_KEYS = 1 << 12
MAX_STRINGS = 1 << 21  # of one array
MAX_NAME = 63  # bytes; ggml's limit of 64 counts the closing zero
MAX_DIMENSIONS = 4
MAX_ELEMENTS = 1 << 40
MAX_ALIGNMENT = 1 << 16
KEPT_ARRAY = 1 << 10  # longer arrays of numbers are checked and dropped, unless the checks need them
STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
NEEDED_ARRAYS = {"tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.scores"}

Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Array:
    """An array of a header: its GGUF element type and length, and its values where they are kept."""

    kind: int
    length: int
    values: tuple[int | float | bool | bytes, ...] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Value:
    """One entry of a header with its GGUF type, as llama.cpp insists on exact types."""

    kind: int
    value: Scalar | Array


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """One tensor: ``shape`` with the fastest axis first, ``type`` as ggml names it, where its bytes lie."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    size: int


class Reader:
    """A position in the file's first bytes; reads more of them only after comparing with the file's size."""

    def __init__(self, file: BinaryIO, path: Path, *, keep: bool = False) -> None:
        self._file = file
        self._name = path.name
        self._keep = keep  # all arrays, however long
        self._size = path.stat().st_size
        self._data = b""
        self._at = 0
        self._n_keys = 0

    def corrupt(self, what: str, at: int | None = None) -> ModelCorrupt:
        """The error that says what is wrong, and at which byte."""
        return ModelCorrupt(
            f"{self._name} is not a sound GGUF file",
            why=f"{what} at byte {self._at if at is None else at} of {self._size}",
            remedy="Fetch or copy it again",
        )

    def preamble(self) -> int:
        """Check magic and version; the number of tensors."""
        if self._size < 4 or self._bytes(4, "the magic") != b"GGUF":
            raise self.corrupt("no GGUF magic", 0)
        version = self._int("I", "the version")
        if version not in (2, 3):
            raise ModelUnsupported(
                f"{self._name} has GGUF version {version}", why="Versions 2 and 3 are read"
            )
        n_tensors = self._count("tensors", MAX_TENSORS, smallest=24)
        self._n_keys = self._count("keys", MAX_KEYS, smallest=13)
        return n_tensors

    def values(self) -> dict[str, Value]:
        """All key-value pairs."""
        found: dict[str, Value] = {}
        for _ in range(self._n_keys):
            start = self._at
            key = self._string("a key")
            if not key or key in found or "\0" in key:
                raise self.corrupt(f"key {key!r} is empty, not a name, or there twice", start)
            kind = self._int("I", f"the type of {key}")
            found[key] = Value(kind, self._array(key) if kind == ARRAY else self._scalar(kind, key))
        return found

    def tensors(self, count: int, values: Mapping[str, Value]) -> tuple[TensorInfo, ...]:
        """All tensors, whose bytes must follow one another without a gap and end inside the file."""
        alignment = self._alignment(values)
        raw = [self._tensor() for _ in range(count)]
        start = -(-self._at // alignment) * alignment
        expected = 0
        tensors = []
        names = set()
        for name, shape, type_id, offset, at in raw:
            kind = WEIGHT_TYPES[type_id]
            size = prod(shape) // kind.block * kind.size
            if offset != expected:
                raise self.corrupt(f"tensor {name} lies at offset {offset}, expected {expected},", at)
            if start + offset + size > self._size:
                raise self.corrupt(
                    f"tensor {name} ends {start + offset + size - self._size} bytes after it,", at
                )
            if name in names:
                raise self.corrupt(f"tensor {name} is there twice", at)
            names.add(name)
            tensors.append(
                TensorInfo(name=name, shape=shape, type=kind.name, offset=start + offset, size=size)
            )
            expected += -(-size // alignment) * alignment
        return tuple(tensors)

    def _alignment(self, values: Mapping[str, Value]) -> int:
        entry = values.get("general.alignment", Value(4, 32))
        size = entry.value
        if entry.kind != 4 or not isinstance(size, int) or not 0 < size <= MAX_ALIGNMENT or size & (size - 1):
            raise self.corrupt(f"general.alignment is {size}, not a power of two up to {MAX_ALIGNMENT},")
        return size

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int, int]:
        at = self._at
        name = self._string("a tensor's name", longest=MAX_NAME)
        n_dims = self._int("I", f"the dimensions of {name}")
        if not 1 <= n_dims <= MAX_DIMENSIONS or "\0" in name:
            raise self.corrupt(f"tensor {name!r} has {n_dims} dimensions", at)
        shape = tuple(self._int("Q", f"the shape of {name}") for _ in range(n_dims))
        type_id = self._int("I", f"the type of {name}")
        if type_id not in WEIGHT_TYPES:
            raise ModelUnsupported(f"{self._name} has tensors of ggml type {type_id}", why=f"Tensor {name!r}")
        if 0 in shape or prod(shape) > MAX_ELEMENTS or shape[0] % WEIGHT_TYPES[type_id].block:
            raise self.corrupt(f"tensor {name!r} has the shape {shape}", at)
        return name, shape, type_id, self._int("Q", f"the offset of {name}"), at

    def _scalar(self, kind: int, key: str) -> Scalar:
        if kind == STRING:
            return self._string(key, strict=False)
        if kind not in SCALARS:
            raise self.corrupt(f"{key} has the unknown type {kind}")
        (value,) = struct.unpack("<" + SCALARS[kind], self._bytes(struct.calcsize("<" + SCALARS[kind]), key))
        return value  # type: ignore[no-any-return]  # struct gives what the format says: a number or a bool

    def _array(self, key: str) -> Array:
        kind = self._int("I", f"the element type of {key}")
        if kind != STRING and kind not in SCALARS:
            raise self.corrupt(f"{key} is an array of the unknown type {kind}")
        width = 8 if kind == STRING else struct.calcsize("<" + SCALARS[kind])
        most = MAX_STRINGS if kind == STRING else MAX_HEADER_BYTES
        length = self._count(f"elements of {key}", most, smallest=width)
        keep = self._keep or key in NEEDED_ARRAYS or length <= KEPT_ARRAY
        if kind == STRING:
            return Array(kind, length, self._strings(key, length, keep=keep))
        data = self._bytes(length * width, key)
        return Array(kind, length, struct.unpack(f"<{length}{SCALARS[kind]}", data) if keep else None)

    def _strings(self, key: str, length: int, *, keep: bool) -> tuple[bytes, ...] | None:
        """One loop without calls: a vocabulary has 100,000 strings, and this is most of the time."""
        data, at, end = self._data, self._at, len(self._data)
        found: list[bytes] = []
        for index in range(length):
            after = at + 8
            stop = after + int.from_bytes(data[at:after], "little") if after <= end else end + 1
            if stop > end:
                self._at = at
                self._need(8, f"string {index} of {key}")
                self._need(8 + int.from_bytes(self._data[at:after], "little"), f"string {index} of {key}")
                data, end = self._data, len(self._data)
                stop = after + int.from_bytes(data[at:after], "little")
            if keep:
                found.append(data[after:stop])
            at = stop
        self._at = at
        return tuple(found) if keep else None

    def _string(self, what: str, *, longest: int = MAX_HEADER_BYTES, strict: bool = True) -> str:
        at = self._at
        length = self._int("Q", f"the length of {what}")
        if length > longest:
            raise self.corrupt(f"{what} is {length} bytes long, at most {longest} are allowed,", at)
        try:
            return self._bytes(length, what).decode("utf-8", "strict" if strict else "replace")
        except UnicodeDecodeError:
            raise self.corrupt(f"{what} is not UTF-8", at) from None

    def _count(self, what: str, most: int, *, smallest: int) -> int:
        """A number of things that take ``smallest`` bytes or more each, so that they can be in the file."""
        at = self._at
        count = self._int("Q", f"the number of {what}")
        if count > most or count * smallest > self._size - self._at:
            raise self.corrupt(f"{count} {what} are announced, more than fit,", at)
        return count

    def _int(self, form: str, what: str) -> int:
        return int.from_bytes(self._bytes(struct.calcsize("<" + form), what), "little")

    def _bytes(self, n: int, what: str) -> bytes:
        self._need(n, what)
        self._at += n
        return self._data[self._at - n : self._at]

    def _need(self, n: int, what: str) -> None:
        """Have the next ``n`` bytes in memory, or say that the file or the header's limit ends before."""
        end = self._at + n
        if end > min(self._size, MAX_HEADER_BYTES):
            raise self.corrupt(f"the file or its header ends inside {what}")
        if end > len(self._data):
            self._data += self._file.read(max(end - len(self._data), len(self._data), 1 << 16))
        if end > len(self._data):
            raise self.corrupt(f"the file was cut while it was read, inside {what}")
