"""What verbs write to stdout: JSON, or tables that are plain where nobody looks at them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass

import typer


def write_json(value: object) -> None:
    """Write a value, dataclasses as objects, as one JSON document."""
    typer.echo(json.dumps(value, default=_plain, indent=2, ensure_ascii=False))


def write_json_line(value: object) -> None:
    """Write a value as one line of JSON."""
    typer.echo(json.dumps(value, default=_plain, ensure_ascii=False))


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
    console.print(table)


def size(n_bytes: float) -> str:
    """Bytes for people, in the units that disks are sold in."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"


def _plain(value: object) -> object:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)
