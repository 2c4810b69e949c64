"""`edgeai models`: what can be used here, and what can be fetched."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from edgeai.cli import options

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="List, pull, import, verify and remove models.",
)

Name = Annotated[str, typer.Argument(help="A catalog name or an id.", autocompletion=options.complete_model)]
AllowLarge = Annotated[bool, typer.Option("--allow-large", help="Take more than 3 billion parameters.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One model of the catalog or of the store. ``path`` is None while it is not installed."""

    id: str
    installed: bool
    in_catalog: bool
    size_bytes: int
    parameters: int
    context: int
    licence: str | None
    path: Path | None


@app.command("list")
def list_models(*, json: options.Json = False) -> None:
    """The models of the catalog and of the store, with their sizes."""
    from edgeai.cli.output import size, write_json, write_table

    rows = _rows()
    if json:
        write_json([asdict(row) for row in rows])
        return
    write_table(
        ("MODEL", "STATE", "SIZE", "PARAMETERS", "CONTEXT", "LICENCE"),
        [
            (
                row.id,
                "installed" if row.installed else "not installed",
                size(row.size_bytes),
                f"{row.parameters / 1e6:.0f} M",
                str(row.context),
                row.licence or "unknown",
            )
            for row in rows
        ],
    )


@app.command()
def pull(name: Name, *, allow_large: AllowLarge = False, json: options.Json = False) -> None:
    """Fetch a model of the catalog, verify and install it; with ONNX Runtime installed, convert it, too."""
    from edgeai.cli.progress import pull_with_bar

    for model in pull_with_bar(name, allow_large=allow_large):
        _report(model.id, "installed", json=json)


@app.command("import")
def import_model(
    path: Annotated[Path, typer.Argument(help="A .gguf file, a package folder or a bundle (.edgeai).")],
    *,
    name: Annotated[str | None, typer.Option(help="The name to install it under.")] = None,
    allow_large: AllowLarge = False,
    json: options.Json = False,
) -> None:
    """Copy a model that is on this machine into the store; a bundle must be signed by a trusted key."""
    from edgeai.errors import ConfigError
    from edgeai.models import store

    if path.suffix == ".edgeai":
        if name is not None:
            raise ConfigError("A bundle's models have names", remedy="Leave --name out")
        found = store.import_bundle(path, allow_large=allow_large)
        for model in found.models:
            _report(model.id, "installed", json=json)
        for file in found.files:
            _report(str(file), "imported", json=json)
        return
    _report(store.import_(path, name, allow_large=allow_large).id, "installed", json=json)


@app.command()
def verify(
    name: Annotated[
        str | None, typer.Argument(help="All without a name.", autocompletion=options.complete_model)
    ] = None,
    *,
    json: options.Json = False,
) -> None:
    """Read installed models again and compare their hashes."""
    from edgeai.models import store

    for model in _packages(name) if name else [model.id for model in store.installed()]:
        _report(store.verify(model).id, "verified", json=json)


@app.command()
def remove(name: Name, *, json: options.Json = False) -> None:
    """Delete an installed model: all its packages, or the one with this id."""
    from edgeai.devices.verdicts import forget
    from edgeai.models import store

    for model in _packages(name):
        files = [file.sha256 for one in store.installed() if one.id == model for file in one.manifest.files]
        store.remove(model)
        forget(files)
        _report(model, "removed", json=json)


def _packages(name: str) -> list[str]:
    """The ids of the installed packages with this name; the name itself when there are none."""
    from edgeai.models import store

    return [model.id for model in store.installed() if name in (model.id, model.manifest.name)] or [name]


def _report(model: str, state: str, *, json: bool) -> None:
    from edgeai.cli.output import write_json_line

    if json:
        write_json_line({"id": model, "state": state})
    else:
        typer.echo(f"{state} {model}")


def _rows() -> list[Row]:
    from edgeai.models import catalog, store

    entries = {entry.id: entry for entry in catalog.entries()}
    here = {model.id: model for model in store.installed()}
    own = [
        Row(
            id=model.id,
            installed=True,
            in_catalog=model.id in entries,
            size_bytes=model.manifest.size,
            parameters=model.manifest.parameters,
            context=model.manifest.context,
            licence=model.manifest.licence,
            path=model.path,
        )
        for model in here.values()
    ]
    rest = [
        Row(
            id=entry.id,
            installed=False,
            in_catalog=True,
            size_bytes=entry.size,
            parameters=entry.parameters,
            context=entry.context,
            licence=entry.licence,
            path=None,
        )
        for entry in entries.values()
        if entry.id not in here
    ]
    return own + rest
