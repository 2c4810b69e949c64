"""What an ONNX file says about itself, read without loading its weights and without trusting it.

A small reader of protobuf's wire format: it jumps over tensor data, so that a file of any size takes
milliseconds, and whatever is wrong in it becomes a ModelCorrupt.
"""

import mmap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from edgeai.errors import ModelCorrupt, ModelNotFound

__all__ = ["Graph", "Node", "Shape", "Tensor", "read_graph"]

_MAX_DEPTH: Final = 8
_DAMAGED: Final = "Get the model again"

Span = tuple[int, int]
Shape = tuple[int, tuple[int | None, ...]]
"""ONNX's number of a data type, and dimensions; None for those that are not fixed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An initializer. ``size`` is the bytes of data in the file, None if they are in another form.

    ``external`` holds location, offset and length as the file writes them; empty when the data is inside.
    """

    name: str
    dims: tuple[int, ...]
    data_type: int
    size: int | None
    external: Mapping[str, str]

    @property
    def count(self) -> int:
        """The number of elements."""
        total = 1
        for dim in self.dims:
            total *= dim
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """An operation; ``numbers`` are its whole-number attributes."""

    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    numbers: Mapping[str, int]


@dataclass(slots=True, kw_only=True)
class Graph:
    """A model: nodes and initializers of all its graphs, names of the main graph's inputs and outputs.

    ``shapes`` are those of the inputs and outputs.
    """

    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    domains: set[str] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)
    metadata: dict[str, str] = field(default_factory=dict)


def read_graph(path: Path) -> Graph:
    """Read the model at ``path``. Raises ModelNotFound or ModelCorrupt."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(data, path.name).model()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise ModelNotFound(f"There is no model file at {path}", remedy="Pull or import the model") from error
    except ValueError as error:  # an empty file cannot be mapped
        raise ModelCorrupt(f"{path.name} is damaged", why=str(error), remedy=_DAMAGED) from error
    except OSError as error:
        raise ModelCorrupt(f"{path.name} cannot be read", why=error.strerror, remedy=_DAMAGED) from error


class _Reader:
    def __init__(self, data: mmap.mmap, name: str) -> None:
        self._data, self._name = data, name
        self._graph = Graph()

    def model(self) -> Graph:
        found = False
        for number, value in self._fields((0, len(self._data))):
            match number:
                case 7:
                    self._read_graph(self._span(value), 0)
                    found = True
                case 8:
                    self._graph.domains.add(self._first_text(value, 1))
                case 14:
                    key, text = self._entry(value)
                    self._graph.metadata[key] = text
                case 25:
                    self._graph.functions.add(self._first_text(value, 10))
                case _:
                    pass
        if not found or not self._graph.nodes:
            raise self._damaged("it holds no graph")
        return self._graph

    def _read_graph(self, span: Span, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise self._damaged("its graphs are nested too deeply")
        for number, value in self._fields(span):
            if number == 1:
                self._read_node(self._span(value), depth)
            elif number == 5:
                tensor = self._tensor(self._span(value))
                self._graph.tensors[tensor.name] = tensor
            elif number in (11, 12) and depth == 0:
                name = self._first_text(value, 1)
                (self._graph.inputs if number == 11 else self._graph.outputs).append(name)
                self._graph.shapes[name] = self._shape(self._span(value))

    def _shape(self, port: Span) -> Shape:
        """Of a port's type, if it is a tensor's: field 2, its field 1, with the data type and the shape."""
        data_type, dims = 0, []
        for tensor in self._inner(self._inner([port], 2), 1):
            for number, value in self._fields(tensor):
                if number == 1 and isinstance(value, int):
                    data_type = value
            for dim in self._inner(self._inner([tensor], 2), 1):
                dims.append(next((v for n, v in self._fields(dim) if n == 1 and isinstance(v, int)), None))
        return data_type, tuple(dims)

    def _inner(self, spans: Iterable[Span], wanted: int) -> Iterator[Span]:
        """The messages in a field of messages."""
        for span in spans:
            for number, value in self._fields(span):
                if number == wanted:
                    yield self._span(value)

    def _read_node(self, span: Span, depth: int) -> None:
        inputs, outputs, texts = [], [], {4: "", 7: ""}
        numbers: dict[str, int] = {}
        for number, value in self._fields(span):
            if number == 1:
                inputs.append(self._text(value))
            elif number == 2:
                outputs.append(self._text(value))
            elif number in texts:
                texts[number] = self._text(value)
            elif number == 5:
                self._read_attribute(self._span(value), numbers, depth)
        self._graph.nodes.append(
            Node(
                op=texts[4],
                domain=texts[7],
                inputs=tuple(inputs),
                outputs=tuple(outputs),
                numbers=numbers,
            )
        )

    def _read_attribute(self, span: Span, numbers: dict[str, int], depth: int) -> None:
        name, whole = "", None
        for number, value in self._fields(span):
            if number == 1:
                name = self._text(value)
            elif number == 3 and isinstance(value, int):
                whole = _signed(value)
            elif number in (6, 11):
                self._read_graph(self._span(value), depth + 1)
            elif number in (5, 10):
                self._tensor(self._span(value))
        if whole is not None:
            numbers[name] = whole

    def _tensor(self, span: Span) -> Tensor:
        dims: list[int] = []
        name, data_type, size, location = "", 0, None, 0
        external: dict[str, str] = {}
        for number, value in self._fields(span):
            if number == 1:
                dims.extend(self._numbers(value))
            elif number == 2 and isinstance(value, int):
                data_type = value
            elif number == 8:
                name = self._text(value)
            elif number == 9:
                start, end = self._span(value)
                size = end - start
            elif number == 13:
                key, text = self._entry(value)
                external[key] = text
            elif number == 14 and isinstance(value, int):
                location = value
        if any(dim < 0 for dim in dims):
            raise self._damaged(f"the tensor {name!r} has a negative dimension")
        if location == 1 and "location" not in external:
            raise self._damaged(f"the tensor {name!r} does not say where its data is")
        return Tensor(
            name=name,
            dims=tuple(dims),
            data_type=data_type,
            size=size,
            external=external if location == 1 else {},
        )

    # the wire format

    def _fields(self, span: Span) -> Iterator[tuple[int, int | Span]]:
        """Field numbers with their value: a whole number, or where their bytes are."""
        at, end = span
        while at < end:
            key, at = self._varint(at, end)
            kind = key & 7
            if kind == 0:
                value, at = self._varint(at, end)
                yield key >> 3, value
                continue
            if kind == 2:
                size, at = self._varint(at, end)
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
            else:
                raise self._damaged("it is not in ONNX's format")
            if size > end - at:
                raise self._damaged("it is cut off, or not in ONNX's format")
            yield key >> 3, (at, at + size)
            at += size

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = shift = 0
        while at < end and shift < 70:
            byte = self._data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
        raise self._damaged("it is cut off, or not in ONNX's format")

    def _numbers(self, value: int | Span) -> list[int]:
        """One number, or several that are packed."""
        if isinstance(value, int):
            return [_signed(value)]
        (at, end), found = value, []
        while at < end:
            number, at = self._varint(at, end)
            found.append(_signed(number))
        return found

    def _span(self, value: int | Span) -> Span:
        if isinstance(value, int):
            raise self._damaged("it is not in ONNX's format")
        return value

    def _text(self, value: int | Span) -> str:
        start, end = self._span(value)
        try:
            return self._data[start:end].decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._damaged("a name in it is not UTF-8") from error

    def _first_text(self, value: int | Span, wanted: int) -> str:
        fields = self._fields(self._span(value))
        return next((self._text(inner) for number, inner in fields if number == wanted), "")

    def _entry(self, value: int | Span) -> tuple[str, str]:
        parts = {1: "", 2: ""}
        for number, inner in self._fields(self._span(value)):
            if number in parts:
                parts[number] = self._text(inner)
        return parts[1], parts[2]

    def _damaged(self, why: str) -> ModelCorrupt:
        return ModelCorrupt(f"{self._name} is damaged", why=why, remedy=_DAMAGED)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
