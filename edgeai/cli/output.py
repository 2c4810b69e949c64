"""What verbs write to stdout: JSON, or tables that are plain where nobody looks at them."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path

import typer

from edgeai.errors import ConfigError, EdgeError

WIDEST = 10_000
"""Columns of the widest table."""


def write_json(value: object) -> None:
    """Write a value, dataclasses as objects, as one JSON document."""
    typer.echo(_dump(value, indent=2))


def write_json_line(value: object) -> None:
    """Write a value as one line of JSON."""
    typer.echo(_dump(value))


def write_error(error: EdgeError, *, json: bool) -> None:
    """Write an error to stderr: one line for people, or the object of `describe` as one line."""
    typer.echo(_dump(describe(error)) if json else f"error: {error}", err=True)


def describe(error: EdgeError) -> dict[str, dict[str, str | None]]:
    """An error for programs: ``{"error": {"class", "what", "why", "remedy"}}``."""
    kind = type(error).__name__
    return {"error": {"class": kind, "what": error.what, "why": error.why, "remedy": error.remedy}}


def _dump(value: object, indent: int | None = None) -> str:
    # What the stream cannot encode it writes as Python does, which would be no JSON.
    whole = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return json.dumps(value, default=_plain, indent=indent, ensure_ascii=not whole)


def write_text(path: Path, text: str) -> None:
    """Write a file that was asked for. Raises ConfigError when it cannot be."""
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written", why=error.strerror) from error


def write_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write rows under headers: a table on a terminal, tabs between the columns elsewhere."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        for row in (headers, *rows):
            typer.echo("\t".join(row))
        return
    table = Table(*headers, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*row)
    # A table that is cut to a narrow terminal says nothing: its lines are left to the terminal to wrap.
    needed = console.measure(table, options=console.options.update(width=WIDEST)).maximum
    console.width = max(console.width, needed)
    console.print(table)


def size(n_bytes: float) -> str:
    """Bytes for people, in the units that disks are sold in."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"


def _plain(value: object) -> object:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)
