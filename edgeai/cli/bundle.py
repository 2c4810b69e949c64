"""`edgeai bundle`: models in one signed file, for machines without a network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from edgeai.cli import options
from edgeai.errors import ConfigError

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def bundle(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Names, ids or folders of packages.", autocompletion=options.complete_model),
    ] = None,
    *,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The file to make: NAME.edgeai")] = None,
    key: Annotated[Path | None, typer.Option(help="The private key to sign with, a PEM file.")] = None,
    new_key: Annotated[
        Path | None,
        typer.Option("--new-key", help="Make a private key in this file, and say its public half."),
    ] = None,
    calibration: Annotated[
        list[Path] | None, typer.Option(help="A contract's file to take along; may be given again.")
    ] = None,
    profile: Annotated[list[Path] | None, typer.Option(help="A device profile to take along.")] = None,
    wheel: Annotated[list[Path] | None, typer.Option(help="A wheel to take along.")] = None,
    json: options.Json = False,
) -> None:
    """Put models into one file and sign it; `edgeai models import` takes it where the key is trusted."""
    from edgeai.cli.output import size, write_json_line
    from edgeai.models.bundle import new_key as make_key
    from edgeai.models.bundle import public_key, write_bundle

    if new_key is not None:
        public = make_key(new_key)
        if json:
            write_json_line({"public_key": public})
        else:
            typer.echo(f'made {new_key}; where its bundles may be imported, set trusted_keys = "{public}"')
        if not models and out is None:
            return
        key = key or new_key
    if out is None or key is None:
        raise ConfigError(
            "A bundle needs --out FILE and --key FILE", remedy="Make a key: edgeai bundle --new-key FILE"
        )
    _check(calibration or (), profile or ())
    members = write_bundle(
        out, models or [], key, calibrations=calibration or (), profiles=profile or (), wheels=wheel or ()
    )
    total = sum(member.size for member in members)
    if json:
        write_json_line(
            {"file": str(out), "files": len(members), "size": total, "public_key": public_key(key)}
        )
    else:
        typer.echo(f"made {out}: {len(members)} files, {size(total)}, signed by {public_key(key)}")


def _check(calibrations: Sequence[Path], profiles: Sequence[Path]) -> None:
    """What would be refused where it arrives is refused before it travels."""
    from edgeai.devices.profiles import read_profile
    from edgeai.monitor import contract

    for path in calibrations:
        contract.load(path)
    for path in profiles:
        read_profile(path)
