"""What goes over the pipe between an app and its engine's process: frames of JSON with raw arrays behind it.

A frame is two sizes (little-endian, 32 bits each), the message as JSON, and the bytes of its arrays. Nothing
that comes in is run or imported, as pickle would do it: the process at the other end may be under the control
of a model's file. Both ends are of the same version, so that fields need no names.
"""

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from numbers import Integral, Real
from typing import IO, Any, Final

import numpy as np

from edgeai import errors, types
from edgeai.engines import DevicePlan, EngineInfo, Offload, Step
from edgeai.engines.generation import Finished
from edgeai.errors import BothFailed, ConfigError, EdgeError
from edgeai.types import Token

__all__ = ["WireError", "pack", "read", "unpack"]

MAX_FRAME: Final = 1 << 30
"""Bytes; a larger size is taken for nonsense."""

_SIZES: Final = struct.Struct("<II")
_PLAIN: Final = (str, int, float, bool, type(None))
_DTYPES: Final = ("<f4", "<f8")
_VALUES: Final[dict[str, type[Any]]] = {
    kind.__name__: kind
    for kind in (
        types.Text,
        types.Image,
        types.ToolCall,
        types.Message,
        types.Tool,
        types.Sampling,
        types.Request,
        types.Token,
        types.LabelScores,
        types.Warmed,
        Step,
        Offload,
        DevicePlan,
        EngineInfo,
        Finished,
    )
}
_FIELDS: Final = {name: tuple(field.name for field in fields(kind)) for name, kind in _VALUES.items()}
_NAMES: Final = {kind: name for name, kind in _VALUES.items()}
_ERRORS: Final = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, EdgeError) and kind is not BothFailed
}


class WireError(ValueError):
    """What came in is not what the other end would say if it were sound."""


def pack(message: object) -> bytes:
    """The frame of a message: scalars, lists, tuples, mappings, bytes, arrays, our own values and errors.

    Raises ConfigError for anything else.
    """
    blobs = bytearray()
    text = json.dumps(_encode(message, blobs), separators=(",", ":")).encode()
    return b"".join((_SIZES.pack(len(text), len(blobs)), text, blobs))


def read(pipe: IO[bytes]) -> object:
    """The next message. Raises EOFError at the end, also in the middle of a frame, and WireError."""
    size, more = _SIZES.unpack(_whole(pipe, _SIZES.size))
    if size + more > MAX_FRAME:
        raise WireError("a message is too large")
    return unpack(_whole(pipe, size), _whole(pipe, more))


def unpack(text: bytes, blobs: bytes) -> object:
    """The message of a frame. Raises WireError."""
    try:
        return _decode(json.loads(text), blobs)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise WireError(f"a message makes no sense: {error!r}"[:200]) from error


def _whole(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _encode(value: Any, blobs: bytearray) -> object:  # noqa: ANN401  # anything that can be sent
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is list:
        return [_encode(item, blobs) for item in value]
    name = _NAMES.get(kind)
    if name is not None:
        return {name: [_encode(getattr(value, field), blobs) for field in _FIELDS[name]]}
    return _encode_rare(value, blobs)


def _encode_rare(value: Any, blobs: bytearray) -> object:  # noqa: ANN401  # as above
    match value:
        case bytes() | bytearray():
            return {"bytes": _lay(bytes(value), blobs)}
        case np.ndarray():
            data = np.ascontiguousarray(value)
            return {"array": [*_lay(data.tobytes(), blobs), data.dtype.str, list(data.shape)]}
        case EdgeError():
            told = {k: v for k, v in vars(value).items() if isinstance(v, _PLAIN)}
            return {"error": [_name_of(value, _ERRORS), told]}
        case str():
            return str(value)
        case Mapping():
            return {"map": [[_encode(k, blobs), _encode(v, blobs)] for k, v in value.items()]}
        case Sequence():
            return {"tuple": [_encode(item, blobs) for item in value]}
        case Integral():
            return int(value)
        case Real():
            return float(value)
    name = _name_of(value, _VALUES)
    return {name: [_encode(getattr(value, field), blobs) for field in _FIELDS[name]]}


def _name_of(value: object, known: Mapping[str, type]) -> str:
    """The name of the value's class, or of the nearest one above that the other end knows."""
    for kind in type(value).__mro__:
        if known.get(kind.__name__) is kind:
            return kind.__name__
    raise ConfigError(f"A {type(value).__name__} cannot be sent to the engine's process")


def _lay(data: bytes, blobs: bytearray) -> list[int]:
    start = len(blobs)
    blobs += data
    return [start, len(data)]


def _decode(value: Any, blobs: bytes) -> Any:  # noqa: ANN401  # whatever was sent
    if isinstance(value, list):
        return [_decode(item, blobs) for item in value]
    if not isinstance(value, dict):
        return value
    ((name, content),) = value.items()
    if name in _VALUES:
        items = [_decode(item, blobs) for item in content]
        made = _VALUES[name](**dict(zip(_FIELDS[name], items, strict=True)))
        return _checked(made) if isinstance(made, Token) else made
    return _DECODERS[name](content, blobs)


def _checked(token: Token) -> Token:
    numbers = (token.id, token.logprob, token.entropy, token.margin, token.step_s)
    if type(token.text) is not str or not all(type(number) in (int, float) for number in numbers):
        raise TypeError("a token is not sound")
    return token


def _error(content: Any, blobs: bytes) -> EdgeError:  # noqa: ANN401  # as all decoders
    name, told = content
    error = _ERRORS[name](str(told["what"]))
    for key, value in told.items():
        setattr(error, key, value)
    return error


def _bytes(content: Any, blobs: bytes) -> bytes:  # noqa: ANN401  # as all decoders
    start, size = content
    if start < 0 or size < 0 or start + size > len(blobs):
        raise IndexError("bytes are missing")
    return blobs[start : start + size]


def _array(content: Any, blobs: bytes) -> np.ndarray[Any, Any]:  # noqa: ANN401  # as all decoders
    start, size, dtype, shape = content
    data = _bytes([start, size], blobs)
    if dtype not in _DTYPES or any(n < 0 for n in shape) or math.prod(shape) * int(dtype[-1]) != size:
        raise ValueError("an array is not sound")
    return np.frombuffer(data, dtype).reshape(shape).copy()


_DECODERS: Final[dict[str, Callable[[Any, bytes], Any]]] = {
    "bytes": _bytes,
    "array": _array,
    "error": _error,
    "map": lambda content, blobs: {_decode(k, blobs): _decode(v, blobs) for k, v in content},
    "tuple": lambda content, blobs: tuple(_decode(item, blobs) for item in content),
}
