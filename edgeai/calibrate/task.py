"""What is asked of every query of a calibration: all that a contract is later bound to."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from edgeai.calibrate.data import Data
from edgeai.errors import ConfigError
from edgeai.options import nearest
from edgeai.types import JsonSchema, Message, Prompt

__all__ = ["Method", "Task", "read_examples"]

Method = Literal["ask", "choose", "extract"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The fixed part of the queries; only the prompt changes from one to the next.

    ``examples`` are (text, answer) pairs: labelled ones for "choose", exchanges before the question for the
    others. ``max_tokens`` None is the ordinary limit. ``name`` is the queries' ``task``. Raises ConfigError
    for parts that do not belong together.
    """

    method: Method = "ask"
    name: str | None = None
    system: str | None = None
    choices: tuple[str, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()
    schema: JsonSchema | None = None
    max_tokens: int | None = None
    temperature: float = 0.0

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ConfigError(f"The method is {self.method!r}", remedy=nearest(self.method, get_args(Method)))
        if self.choices and self.method != "choose":
            raise ConfigError(f"{self.method} takes no choices", remedy='Use the method "choose"')
        if self.schema is not None and self.method != "extract":
            raise ConfigError(f"{self.method} takes no schema", remedy='Use the method "extract"')
        if self.method == "choose" and self.temperature:
            raise ConfigError("choose takes no temperature", why="A label is scored, not sampled")

    def with_data(self, data: Data) -> "Task":
        """This task with the choices, schema and name that the data give. Raises ConfigError."""
        found = replace(
            self,
            choices=_one("choices", self.choices, data.choices),
            schema=_one("schema", self.schema, data.schema),
            name=_one("task", self.name, data.task),
        )
        if found.method == "choose" and len(found.choices) < 2:
            raise ConfigError("choose needs choices", remedy='Give them in the data, as "choices"')
        if found.method == "extract" and found.schema is None:
            raise ConfigError(
                "extract needs a schema", remedy='Give it as --schema, or in the data as "schema"'
            )
        return found

    def prompt(self, text: str) -> Prompt:
        """The messages of one query, or its text alone where there is nothing else."""
        said = [] if self.system is None else [Message("system", self.system)]
        if self.method != "choose":
            for question, answer in self.examples:
                said += [Message("user", question), Message("assistant", answer)]
        return [*said, Message("user", text)] if said else text


def read_examples(path: Path) -> tuple[tuple[str, str], ...]:
    """(text, answer) pairs from JSONL: ``{"text": …, "label": …}`` or ``[text, answer]`` a line.

    Raises ConfigError that names the line.
    """
    try:
        lines = path.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The examples in {path} cannot be read", why=str(error)) from error
    return tuple(_example(path, n, line) for n, line in enumerate(lines, 1) if line.strip())


def _example(path: Path, number: int, line: str) -> tuple[str, str]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise _misfit(path, number, str(error)) from error
    if isinstance(value, dict) and value.keys() == {"text", "label"}:
        value = [value["text"], value["label"]]
    if not (isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)):
        raise _misfit(path, number, "It is neither of the two forms")
    return value[0], value[1]


def _misfit(path: Path, number: int, why: str) -> ConfigError:
    return ConfigError(
        f"{path}, line {number} is no example",
        why=why,
        remedy='Write {"text": "…", "label": "…"} on each line',
    )


def _one(name: str, given: Any, found: Any) -> Any:  # noqa: ANN401  # one of three types, the same on both sides
    """What is given or found; both only when they are the same."""
    if given in (None, ()) or found in (None, ()):
        return found if given in (None, ()) else given
    if given != found and not (isinstance(given, Mapping) and dict(given) == dict(found)):
        raise ConfigError(
            f"The data have another {name} than was given", remedy="Give it once, in the data or beside them"
        )
    return given
