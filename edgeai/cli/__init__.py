"""The command line: one module per verb, imported when the verb is used."""

import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from itertools import takewhile
from typing import Annotated

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from edgeai.cli.exits import exit_code, explain_exits
from edgeai.errors import ConfigError, DiskFull, EdgeError
from edgeai.options import nearest

VERBS = (
    "ask",
    "chat",
    "models",
    "convert",
    "bundle",
    "ledger",
    "warm",
    "queue",
    "bench",
    "tune",
    "calibrate",
    "simulate",
    "contracts",
    "devices",
    "doctor",
)


class Verbs(TyperGroup):
    """A group whose verbs are the modules of this package."""

    def list_commands(self, ctx: object) -> list[str]:
        """The verbs, in the order of the help."""
        return list(VERBS)

    def get_command(self, ctx: object, cmd_name: str) -> TyperCommand | TyperGroup:
        """Import the verb's module. Raises ConfigError for a verb that does not exist."""
        if cmd_name not in VERBS:
            raise ConfigError(f"There is no verb {cmd_name!r}", remedy=nearest(cmd_name, VERBS))
        verb = get_command(import_module(f"{__name__}.{cmd_name}").app)
        assert isinstance(verb, TyperCommand | TyperGroup)
        return verb


app = typer.Typer(
    cls=Verbs,
    name="edgeai",
    help="Ask a small model on this device; hard questions go to a cloud, if your policy lets them.",
    epilog=explain_exits(),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # Rich would double the time to the help
)


def _show_version(*, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"edgeai {version('edgeai')}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options that belong to no verb; typer reads the signature."""


def main(args: Sequence[str] | None = None) -> None:
    """Run one verb and exit; an error of ours becomes one line on stderr and an exit code."""
    args = sys.argv[1:] if args is None else args
    json = _wants_json(args)
    try:
        _prepare_streams()
        _run(args, json=json)
    except EdgeError as error:
        from edgeai.cli.output import write_error

        write_error(error, json=json)
        sys.exit(exit_code(error))


USAGE_ERROR: type[Exception] = typer.BadParameter.__bases__[0]
"""Click's UsageError, by the only public name there is: some versions of typer bring a click of their own."""


def _run(args: Sequence[str], *, json: bool) -> None:
    """Run the verb; what is mistyped is shown with the usage, and with --json raised as a ConfigError."""
    try:
        if not json:
            app(args, prog_name="edgeai")
        sys.exit(app(args, prog_name="edgeai", standalone_mode=False) or 0)
    except USAGE_ERROR as error:
        raise ConfigError(str(error).rstrip("."), remedy="--help lists what there is") from error
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python tries to write the rest once more
        raise DiskFull("The output cannot be written", why=error.strerror, remedy="Free the disk") from error


def _prepare_streams() -> None:
    """Models know more characters than some terminals: show those by their numbers.

    A stdin that is closed is an empty one. Raises ConfigError when stdout is closed.
    """
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115  # for the whole program
    if sys.stdout is None:
        raise ConfigError("There is no stdout to write to", remedy="Send it to a file, or to /dev/null")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _wants_json(args: Sequence[str]) -> bool:
    """Whether --json is among the options; the verb that read it may not have begun."""
    return "--json" in takewhile(lambda arg: arg != "--", args)
