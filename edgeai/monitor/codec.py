"""Frozen dataclasses to JSON and back, strictly: no unknown key, no wrong type, no infinite number."""

import json
import math
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, NoReturn, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

__all__ = ["decode", "dumps", "encode"]

T = TypeVar("T")
Json: TypeAlias = Any  # what json.loads gives
Kind: TypeAlias = Any  # what stands in an annotation


def encode(value: object) -> Json:
    """The value as JSON's own types."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    return value


def dumps(table: Json) -> str:
    """The one text of ``table``: the same facts give the same bytes. ValueError for infinite numbers."""
    return json.dumps(table, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def decode(kind: type[T], table: Json, where: str = "it") -> T:
    """A ``kind`` from JSON's types. ValueError names the place that does not fit."""
    found: T = _decode(kind, table, where)
    return found


def _decode(kind: Kind, value: Json, where: str) -> Json:
    if is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(kind, value, where)
    origin: Kind = get_origin(kind)
    arguments = get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _decode(next(item for item in arguments if item is not type(None)), value, where)
    if origin is Literal:
        return value if value in arguments else _wrong(where, f"one of {arguments}")
    if origin is tuple:
        return _tuple(arguments, value, where)
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(arguments, value, where)
    return _plain(kind, value, where)


def _dataclass(kind: Kind, value: Json, where: str) -> Json:
    hints = get_type_hints(kind)
    if not isinstance(value, dict) or value.keys() != hints.keys():
        odd = sorted(value.keys() ^ hints.keys()) if isinstance(value, dict) else []
        _wrong(
            where, f"a table with the keys of {kind.__name__}" + (f" (see {', '.join(odd)})" if odd else "")
        )
    return kind(**{name: _decode(hints[name], value[name], f"{where}.{name}") for name in hints})


def _tuple(arguments: tuple[Kind, ...], value: Json, where: str) -> tuple[Kind, ...]:
    if not isinstance(value, list):
        _wrong(where, "a list")
    kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
    if len(kinds) != len(value):
        _wrong(where, f"a list of {len(kinds)}")
    return tuple(
        _decode(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _mapping(arguments: tuple[Kind, ...], value: Json, where: str) -> dict[Json, Json]:
    if not isinstance(value, dict):
        _wrong(where, "a table")
    return {
        _key(arguments[0], name, where): _decode(arguments[1], item, f"{where}.{name}")
        for name, item in value.items()
    }


def _key(kind: Kind, name: str, where: str) -> Json:
    return int(name) if kind is int and name.isdecimal() else _plain(kind, name, where)


def _plain(kind: Kind, value: Json, where: str) -> Json:
    if (
        kind is float
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
    ):
        return float(value)
    if kind is bool and isinstance(value, bool):
        return value
    if kind in (int, str) and isinstance(value, kind) and not isinstance(value, bool):
        return value
    return _wrong(where, f"of type {kind.__name__}")


def _wrong(where: str, expected: str) -> NoReturn:
    raise ValueError(f"{where} should be {expected}")
