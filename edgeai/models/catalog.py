"""The models known by name: ours, and the user's own from ``catalog.toml`` in the config folder.

A name is a family of packages, each one engine × one quantization with the id ``name@engine-quant``; the
first package of a family is the one that its bare name means.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from functools import cache
from importlib import resources
from typing import Any, TypeVar

from edgeai.errors import ConfigError, ModelNotFound
from edgeai.paths import config_dir

__all__ = [
    "SOURCE_KINDS",
    "CatalogEntry",
    "FileSource",
    "HubSource",
    "PypiSource",
    "Source",
    "UrlSource",
    "default_name",
    "entries",
    "is_trusted",
    "resolve",
    "suggest",
    "valid_id",
]

T = TypeVar("T")
_ID = re.compile(r"(?P<name>[a-z0-9][a-z0-9._-]{0,99})@(?P<engine>[a-z]+)-(?P<quantization>[a-z0-9_]{1,20})")


@dataclass(frozen=True, slots=True, kw_only=True)
class PypiSource:
    """A file inside a wheel on the user's package index. ``download_size``: bytes of the wheel, if known."""

    package: str
    version: str
    member: str
    download_size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSource:
    """A file in a repository of the Hugging Face hub, at one revision."""

    repo: str
    file: str
    revision: str = "main"


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlSource:
    """A file behind an http(s) address."""

    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSource:
    """A file on this machine or a mounted share."""

    path: str


Source = PypiSource | HubSource | UrlSource | FileSource
SOURCE_KINDS: dict[str, type[Source]] = {
    "pypi": PypiSource,
    "hub": HubSource,
    "url": UrlSource,
    "file": FileSource,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """One package that can be pulled: one ``file`` of ``size`` bytes, whose hash is what is trusted."""

    id: str
    file: str
    sha256: str
    size: int
    parameters: int
    context: int
    licence: str
    sources: tuple[Source, ...]

    @property
    def name(self) -> str:
        """The family's name."""
        return self.id.partition("@")[0]


def entries() -> tuple[CatalogEntry, ...]:
    """All packages; the user's own come first, and replace ours of the same id."""
    own_file = config_dir() / "catalog.toml"
    own = _parse(own_file.read_text("utf-8"), str(own_file)) if own_file.is_file() else ()
    replaced = {entry.id for entry in own}
    return (*own, *(entry for entry in _built_in() if entry.id not in replaced))


def default_name() -> str:
    """The model that is used when none is named."""
    return str(tomllib.loads(_built_in_text())["default"])


def resolve(name: str) -> CatalogEntry:
    """The entry with this id, or the first of the family with this name. Raises ModelNotFound."""
    for entry in entries():
        if name in (entry.id, entry.name):
            return entry
    raise suggest(name, ())


def suggest(name: str, more_names: Iterable[str]) -> ModelNotFound:
    """The error for an unknown name, with the nearest of the catalog's names and ``more_names``."""
    known = {*more_names, *(known for entry in entries() for known in (entry.name, entry.id))}
    near = get_close_matches(name.lower(), sorted(known), n=3, cutoff=0.5)
    families = sorted({entry.partition("@")[0] for entry in known})
    return ModelNotFound(
        f"There is no model named {name!r}",
        why=None if near else f"Known are {', '.join(families)}",
        remedy=f"Did you mean {' or '.join(map(repr, near))}?" if near else "Give one of these, or a path",
    )


def is_trusted(sha256: str | None) -> bool:
    """Whether a catalog names a file with this hash."""
    return any(entry.sha256 == sha256 for entry in entries())


def valid_id(package_id: str) -> re.Match[str] | None:
    """The id's parts (``name``, ``engine``, ``quantization``) if it is one; it is also a safe folder name."""
    return _ID.fullmatch(package_id)


@cache
def _built_in() -> tuple[CatalogEntry, ...]:
    return _parse(_built_in_text(), "the built-in catalog")


def _built_in_text() -> str:
    return (resources.files("edgeai.models") / "catalog.toml").read_text("utf-8")


def _parse(text: str, where: str) -> tuple[CatalogEntry, ...]:
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is not valid TOML", why=str(error)) from error
    packages = tables.get("package", [])
    if not isinstance(packages, list):
        raise ConfigError(f"{where}: package must be an array of tables", remedy="Write [[package]]")
    return tuple(_entry(table, where) for table in packages)


def _entry(table: Mapping[str, Any], where: str) -> CatalogEntry:
    where = f"{where}, package {table.get('id')}"
    rest = {key: value for key, value in table.items() if key != "source"}
    sources = tuple(_source(source, where) for source in table.get("source", ()))
    entry = _build(CatalogEntry, {**rest, "sources": sources}, where)
    if not valid_id(entry.id) or not re.fullmatch("[0-9a-f]{64}", entry.sha256) or entry.size <= 0:
        raise ConfigError(
            f"{where} is not complete",
            remedy="Give id as name@engine-quant in small letters, sha256 as 64 hex digits, size in bytes",
        )
    if "/" in entry.file or "\\" in entry.file or entry.file in ("", ".", "..", "edgeai.json"):
        raise ConfigError(f"{where}: file must be a plain file name, not {entry.file!r}")
    return entry


def _source(table: Mapping[str, Any], where: str) -> Source:
    kind = table.get("kind")
    if kind not in SOURCE_KINDS:
        raise ConfigError(
            f"{where}: unknown kind of source {kind!r}", remedy=f"Give one of {', '.join(SOURCE_KINDS)}"
        )
    return _build(SOURCE_KINDS[kind], {key: value for key, value in table.items() if key != "kind"}, where)


def _build(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    """Make the dataclass from a table; unknown and missing keys and wrong types fail."""
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]  # only dataclasses come here
    required = {name for name, field in known.items() if field.default is MISSING}
    if table.keys() - known.keys() or required - table.keys():
        odd = ", ".join(sorted(table.keys() - known.keys()) or sorted(required - table.keys()))
        raise ConfigError(
            f"{where}: unknown or missing {', '.join(odd)}", remedy=f"Known: {', '.join(known)}"
        )
    for name, value in table.items():
        expected = {"sources": tuple}.get(name, int if "int" in str(known[name].type) else str)
        if not isinstance(value, expected) or isinstance(value, bool):
            raise ConfigError(f"{where}: {name} must be {expected.__name__}, not {value!r}")
    return kind(**table)
