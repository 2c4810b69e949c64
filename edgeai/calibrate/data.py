"""Calibration data: prompts, with what is needed to judge an answer.

JSONL (one object a line) or CSV (with a header) of ``prompt, reference?, choices?, schema?, task?``. All is
checked before any work begins, and an error names file, line and remedy. A contract holds for one set of
choices, one schema and one task, so these may be given in every row but not differ.
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeai.errors import ConfigError
from edgeai.monitor.examples import prompt_key
from edgeai.options import nearest
from edgeai.scorers import Reference
from edgeai.types import JsonSchema

__all__ = ["Data", "Row", "read_data"]

COLUMNS = ("prompt", "reference", "choices", "schema", "task")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One query, from this ``line`` of the file; without a reference it is None."""

    line: int
    prompt: str
    reference: Reference = None

    @property
    def key(self) -> str:
        """The hash of the prompt."""
        return prompt_key(self.prompt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """The rows of a file, each prompt once.

    ``duplicates`` rows repeated an earlier prompt and were left out, ``conflicts`` of them with another
    reference. ``strangers`` is how many references are none of the choices: those answers are always wrong.
    """

    source: str
    rows: tuple[Row, ...]
    choices: tuple[str, ...] = ()
    schema: JsonSchema | None = None
    task: str | None = None
    duplicates: int = 0
    conflicts: int = 0

    @property
    def labelled(self) -> bool:
        """Whether there are references; either all rows have one or none has."""
        return self.rows[0].reference is not None

    @property
    def strangers(self) -> int:
        """How many references are none of the choices."""
        return sum(row.reference not in self.choices for row in self.rows) if self.choices else 0


def read_data(path: str | Path) -> Data:
    """Read and check a file of calibration data. Raises ConfigError that names the line."""
    path = Path(path)
    read = {".jsonl": _jsonl, ".ndjson": _jsonl, ".csv": _csv}.get(path.suffix.lower())
    if read is None:
        raise ConfigError(
            f"{path} is neither JSONL nor CSV",
            remedy="Name it .jsonl (one object a line) or .csv (with a header)",
        )
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The data in {path} cannot be read", why=str(error), remedy="Give UTF-8 text"
        ) from error
    tables = list(read(path, text))
    if not tables:
        raise ConfigError(f"{path} has no rows", remedy="Give some hundred prompts")
    return _data(path, tables)


@dataclass(frozen=True, slots=True)
class _Table:
    """One line as it was read."""

    line: int
    values: dict[str, Any]


def _jsonl(path: Path, text: str) -> Iterator[_Table]:
    for number, line in enumerate(text.split("\n"), 1):  # a JSON text may hold other line ends
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _wrong(
                path, number, f"is not JSON ({error})", "Write one JSON object on each line"
            ) from error
        if not isinstance(value, dict):
            raise _wrong(path, number, "is no object", 'Write {"prompt": "…", "reference": "…"} on each line')
        yield _Table(number, value)


def _csv(path: Path, text: str) -> Iterator[_Table]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for values in reader:
            if None in values or None in values.values():
                raise _wrong(
                    path, reader.line_num, "has another number of cells than the header", "Correct it"
                )
            yield _Table(reader.line_num, _cells(path, reader.line_num, values))
    except csv.Error as error:
        raise _wrong(path, reader.line_num, f"is not CSV ({error})", "Put quotes around texts") from error


def _cells(path: Path, line: int, values: dict[str, str]) -> dict[str, Any]:
    """Empty cells are unknown; choices are ``a|b|c`` or a JSON list, a schema is JSON."""
    found: dict[str, Any] = {name: value for name, value in values.items() if value or name == "prompt"}
    choices = found.get("choices", "")
    if choices and not choices.startswith("["):
        found["choices"] = choices.split("|")
    for name in ("choices", "schema"):
        if isinstance(text := found.get(name), str):
            try:
                found[name] = json.loads(text)
            except ValueError as error:
                raise _wrong(path, line, f"has {name} that are not JSON ({error})", "Correct them") from error
    return found


def _data(path: Path, tables: Sequence[_Table]) -> Data:
    rows: dict[str, Row] = {}
    duplicates = conflicts = 0
    for table in tables:
        _check(path, table, tables[0])
        row = Row(line=table.line, prompt=table.values["prompt"], reference=table.values.get("reference"))
        first = rows.setdefault(row.key, row)
        duplicates += first is not row
        conflicts += first.reference != row.reference
    shared = tables[0].values
    return Data(
        source=str(path),
        rows=tuple(rows.values()),
        choices=tuple(shared.get("choices") or ()),
        schema=shared.get("schema"),
        task=shared.get("task"),
        duplicates=duplicates,
        conflicts=conflicts,
    )


def _check(path: Path, table: _Table, first: _Table) -> None:
    line, values = table.line, table.values
    for name in values:
        if name not in COLUMNS:
            raise _wrong(path, line, f"has the unknown field {name!r}", nearest(name, COLUMNS))
    prompt = values.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise _wrong(path, line, "has no prompt", 'Give a text as "prompt"')
    if not _is_unicode(prompt):
        raise _wrong(path, line, "has a prompt that is not valid Unicode", "Replace its lone surrogates")
    for name, is_one, form in _FORMS:
        if (value := values.get(name)) is not None and not is_one(value):
            raise _wrong(path, line, f"has a {name} that is {repr(value)[:60]}", f"Give {form}")
    for name in ("choices", "schema", "task"):
        if values.get(name) != first.values.get(name):
            raise _wrong(
                path, line, f"has another {name} than line {first.line}",
                "Calibrate each on its own: a contract holds for one set of choices, one schema and one task",
            )  # fmt: skip
    if (values.get("reference") is None) != (first.values.get("reference") is None):
        raise _wrong(
            path, line, "differs from the first row in whether it has a reference",
            "Give a reference in every row, or in none",
        )  # fmt: skip


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _is_choices(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 1
        and all(isinstance(label, str) and label.strip() for label in value)
        and len(set(value)) == len(value)
    )


def _is_reference(value: object) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(item, str | int | float) for item in value)
    return isinstance(value, str | int | float | dict) and value not in ("", {})


_FORMS = (
    ("reference", _is_reference, "a text, a number, a list of either, or an object of fields"),
    ("choices", _is_choices, "a list of two or more different texts"),
    ("schema", lambda value: isinstance(value, dict), "a JSON schema, which is an object"),
    ("task", lambda value: isinstance(value, str) and bool(value.strip()), "a text"),
)


def _wrong(path: Path, line: int, what: str, remedy: str) -> ConfigError:
    return ConfigError(f"{path}, line {line} {what}", remedy=remedy)
