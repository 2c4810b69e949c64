"""`edgeai bench model`: what each engine does with a model on this machine, and which one will be used."""

from dataclasses import asdict
from typing import Annotated

import typer

from edgeai.cli import options

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, no_args_is_help=True, help="Measure this machine."
)


@app.callback()
def _group() -> None:
    """Keeps `model` a verb of its own while it is the only one."""


@app.command()
def model(
    name: Annotated[
        str | None, typer.Argument(help="A catalog name.", autocompletion=options.complete_model)
    ] = None,
    *,
    json: options.Json = False,
) -> None:
    """Measure a model on every installed engine; the fastest is used from now on."""
    from edgeai.cli.output import write_json, write_table
    from edgeai.config import Settings
    from edgeai.load import family_speeds

    found = family_speeds(name or Settings.load().model, again=True)
    if json:
        write_json([asdict(speed) | {"query_s": speed.query_s} for speed in found])
        return
    write_table(
        ("PACKAGE", "DECODE", "PREFILL", "TYPICAL QUERY"),
        [
            (
                speed.id,
                f"{speed.decode_tps:.0f} tok/s",
                f"{speed.prefill_tps:.0f} tok/s",
                f"{speed.query_s:.2f} s",
            )
            for speed in found
        ],
    )
    typer.echo(f"engine='auto' uses {found[0].engine}.")
