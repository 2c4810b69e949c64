"""From tables of TOML to dataclasses: each field has a type, and every error names the file and the field."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from edgeai.errors import ConfigError

T = TypeVar("T")
Provenance = Literal["published", "measured", "estimated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number and where it comes from: ``published`` and ``measured`` ones name their source."""

    value: float
    provenance: Provenance
    source: str | None = None


def read(kind: type[T], table: object, where: str) -> T:
    """A ``kind`` made of the table. Raises ConfigError; ``where`` begins its text.

    A field that is missing takes its default. Fields that do not exist are refused.
    """
    if not isinstance(table, Mapping):
        raise _wrong(where, table, "a table")
    hints = get_type_hints(kind)
    assert is_dataclass(kind)
    known = {field.name: field for field in fields(kind)}
    if unknown := sorted(table.keys() - known.keys()):
        raise ConfigError(f"{where} has no field {unknown[0]!r}", remedy=f"It has {', '.join(known)}")
    values = {name: _value(hints[name], table[name], f"{where}, {name}") for name in known if name in table}
    for name, field in known.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"{where} lacks the field {name!r}", remedy="Add it")
    made = kind(**values)
    if isinstance(made, Figure):
        _check_figure(made, where)
    return made


def _check_figure(figure: Figure, where: str) -> None:
    if figure.provenance != "estimated" and not figure.source:
        remedy = 'Name its source, or write provenance = "estimated"'
        raise ConfigError(f"{where} is {figure.provenance}, but not where", remedy=remedy)


def _value(hint: Any, value: object, where: str) -> Any:  # noqa: ANN401  # whatever the field holds
    origin, inner = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return _value(inner[0], value, where)
    if origin is Literal:
        if value not in inner:
            raise _wrong(where, value, " or ".join(map(repr, inner)))
        return value
    if origin is tuple:
        return _row(inner, value, where)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(where, value, "a table")
        return {_value(inner[0], key, where): _value(inner[1], value[key], f"{where}.{key}") for key in value}
    if is_dataclass(hint):
        return read(hint if isinstance(hint, type) else type(hint), value, where)
    return _plain(hint, value, where)


def _row(inner: tuple[Any, ...], value: object, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _wrong(where, value, "a list")
    if inner[-1] is Ellipsis:
        return tuple(_value(inner[0], entry, f"{where}[{i}]") for i, entry in enumerate(value))
    if len(value) != len(inner):
        raise _wrong(where, value, f"a list of {len(inner)}")
    return tuple(_value(hint, entry, where) for hint, entry in zip(inner, value, strict=True))


def _plain(hint: type[object], value: object, where: str) -> object:
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        names = {str: "a text", float: "a number", int: "a whole number", bool: "true or false"}
        raise _wrong(where, value, names[hint])
    return value


def _wrong(where: str, value: object, wanted: str) -> ConfigError:
    return ConfigError(f"{where} is {value!r}", why=f"It must be {wanted}", remedy="Correct it")
