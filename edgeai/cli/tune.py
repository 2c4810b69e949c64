"""`edgeai tune`: find the settings with which a model runs fastest on this machine, and keep them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from edgeai.cli import options
from edgeai.cli.exits import Exit

if TYPE_CHECKING:
    from edgeai.devices.tuning import Tuning
    from edgeai.models.store import InstalledModel

app = typer.Typer(add_completion=False, rich_markup_mode=None)
LEAST_S = 5.0  # for measuring, however long it took to try devices


@app.command()
def tune(
    name: Annotated[
        str | None,
        typer.Argument(
            help="An installed model; else the settings' one.", autocompletion=options.complete_model
        ),
    ] = None,
    *,
    engine: options.Engine = None,
    show: Annotated[bool, typer.Option("--show", help="Show what is kept, and measure nothing.")] = False,
    forget: Annotated[bool, typer.Option("--forget", help="Delete what is kept for the model.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Measure also what is known.")] = False,
    lossy: Annotated[
        bool, typer.Option("--lossy", help="Try a KV cache of 8 bits, which changes answers a little.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Measure settings on this machine for some 20 seconds; the best are used from the next start on.

    Ctrl-C keeps what is known, and the same command goes on from there.
    """
    from edgeai.devices.tuning import forget as forget_tuning
    from edgeai.devices.tuning import kept

    if show:
        _write(kept(), json=json)
        return
    model = _model(name, engine)
    if forget:
        typer.echo(f"{model.id}: {'forgotten' if forget_tuning(model.id) else 'nothing was kept'}.")
        return
    found = _tune(model, again=again, lossy=lossy)
    _write((found,), json=json)
    _compare(name, engine, json=json)


def _model(name: str | None, engine: str | None) -> "InstalledModel":
    from typing import cast

    from edgeai.config import Settings
    from edgeai.load import EngineName, choose_package

    wanted = name or Settings.load().model
    return choose_package(wanted, cast("EngineName", engine or "auto"), allow_large=False)


def _tune(model: "InstalledModel", *, again: bool, lossy: bool) -> "Tuning":
    from functools import partial
    from time import monotonic

    from edgeai.cli.progress import counting
    from edgeai.config import Settings
    from edgeai.devices.placing import choices
    from edgeai.devices.plan import plan
    from edgeai.devices.probe import probe
    from edgeai.devices.profiles import choose
    from edgeai.devices.tune import LIMIT_S, knobs, measure, search
    from edgeai.devices.tuning import Tuning, circumstances, recall, remember
    from edgeai.load import open_planned

    # without guesses, which the measured prompt, a word again and again, makes too easy
    machine = probe()
    planned = plan(None, min(model.manifest.context, 1024), machine=machine)
    usual = replace(planned, follow_load=False, speculate=False)
    begun = monotonic()
    profile = choose(Settings.load().profile, machine)
    with _stoppable():
        providers = choices(model, usual, profile, machine, tell=_say_tried)
    limit_s = max(LEAST_S, LIMIT_S - (monotonic() - begun))
    todo = knobs(
        model.manifest.engine, model.manifest.quantization, usual.n_threads, lossy=lossy, providers=providers
    )
    known = None if again else recall(model, drafts=True)
    found = known or Tuning(model=model.id, circumstances=circumstances(model))
    # in this process: one of its own would be taken for another program that is busy
    sample = partial(measure, partial(open_planned, model, isolation="thread"))
    with _stoppable(), counting("measuring") as progress:
        for better in search(found, todo, usual, sample, progress=progress, limit_s=limit_s):
            if better.complete or any(choice.query_s for choice in better.choices):
                remember(better)
            found = better
    return found


def _say_tried(provider: str) -> None:
    typer.echo(f"trying {provider}, once", err=True)


@contextmanager
def _stoppable() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("Stopped; what was measured is kept, and the same command goes on.", err=True)
        raise typer.Exit(Exit.STOPPED) from None


def _write(tunings: "tuple[Tuning, ...]", *, json: bool) -> None:
    from edgeai.cli.output import write_json, write_table

    if json:
        write_json([asdict(tuning) for tuning in tunings])
        return
    if not tunings:
        typer.echo("Nothing is tuned: edgeai tune")
    for tuning in tunings:
        state = "" if tuning.complete else " (unfinished and not used: the same command goes on)"
        typer.echo(f"{tuning.model}{state}")
        write_table(
            ("SETTING", "CHOSEN", "SECONDS OF A TYPICAL QUERY"),
            [
                (
                    choice.name,
                    str(choice.value),
                    ", ".join(f"{value}: {seconds:.2f}" for value, seconds in choice.query_s.items())
                    or "the only one here",
                )
                for choice in tuning.choices
            ],
        )


def _compare(name: str | None, engine: str | None, *, json: bool) -> None:
    """With the settings of now another engine may be the fastest."""
    from edgeai.config import Settings
    from edgeai.load import family_speeds

    wanted = name or Settings.load().model
    if engine is not None or any(mark in wanted for mark in "@/\\."):
        return
    speeds = family_speeds(wanted, again=True)
    if json:
        return
    if len(speeds) > 1:
        times = ", ".join(f"{speed.engine}: {speed.query_s:.2f}" for speed in speeds)
        typer.echo(f"engine='auto' uses {speeds[0].engine} (seconds of a typical query: {times}).")
    else:
        typer.echo(f"engine='auto' uses {speeds[0].engine}, the only one that has a package of {wanted}.")
