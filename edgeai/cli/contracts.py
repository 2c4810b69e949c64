"""`edgeai contracts show`: what a contract promises, on what proof, and whether it is for a model here."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from edgeai.cli import options

if TYPE_CHECKING:
    from edgeai.load import EngineName
    from edgeai.monitor.contract import Contract

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, no_args_is_help=True, help="Look at contracts."
)


@app.callback()
def _group() -> None:
    """Keeps `show` a verb of its own while it is the only one."""


@app.command()
def show(
    file: Annotated[Path, typer.Argument(help="A NAME.contract.json.")],
    *,
    model: options.Model = None,
    engine: options.Engine = None,
    json: options.Json = False,
) -> None:
    """The promise, its proof, and whether it is for the model that is installed here."""
    from edgeai.cli.output import write_json, write_table
    from edgeai.monitor import contract

    found = contract.load(file)
    why = _misfit(found, model, engine)
    if json:
        facts = {name: asdict(getattr(found, name)) for name in ("promise", "binding", "certificate")}
        write_json(facts | {"notes": dict(found.notes), "fits": why is None, "why": why})
        return
    typer.echo(f"It promises: {found.promise.in_words()}.")
    write_table(("PROOF", ""), [(name, _cell(value)) for name, value in asdict(found.certificate).items()])
    write_table(("VALID FOR", ""), [(name, _cell(value)) for name, value in asdict(found.binding).items()])
    if found.notes:
        write_table(("NOTE", ""), sorted(found.notes.items()))
    typer.echo("It is for this model." if why is None else f"It is not for this model: {why}.")


def _misfit(found: "Contract", model: str | None, engine: str | None) -> str | None:
    """Why the contract is for another model, engine or template than what is here; None when it is not."""
    from edgeai.binding import form_hash, weights_hash
    from edgeai.load import choose_package

    settings = options.read_settings({"model": model, "engine": engine})
    name = cast("EngineName", settings.engine)  # choose_package knows the names
    bound = found.binding
    package = choose_package(settings.model, name, allow_large=True, weights=bound.weights)
    manifest = package.manifest
    template = form_hash() if bound.method == "choose" else manifest.template_sha256
    return bound.matches(
        replace(bound, engine=manifest.engine, weights=weights_hash(package), template=template)
    )


def _cell(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
