"""`edgeai calibrate`: from prompts and references to a contract."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edgeai.cli import options
from edgeai.cli.exits import Exit
from edgeai.errors import BudgetExceeded, ConfigError

if TYPE_CHECKING:
    from edgeai.calibrate import Calibration, Estimate, Method, Progress, Report, Task
    from edgeai.types import JsonSchema

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def calibrate(
    data: Annotated[Path, typer.Argument(help="JSONL or CSV of prompt, reference, choices, schema, task.")],
    *,
    contract: Annotated[
        str, typer.Option(help='The promise: "error<=0.05@0.95", or of overall-error, quality, disagreement.')
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where the contract goes: NAME.contract.json")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write a report with figures here, as HTML.")] = None,
    method: Annotated[
        Literal["ask", "choose", "extract"] | None,
        typer.Option(help="How it is asked; without it: choose if there are choices, extract if a schema."),
    ] = None,
    scorer: Annotated[
        str | None,
        typer.Option(help="exact, normalised, numeric, choice, json, judge (the cloud), or module:function."),
    ] = None,
    good: Annotated[float, typer.Option(help="The quality from which an answer is right, up to 1.")] = 1.0,
    system: options.System = None,
    examples: Annotated[
        Path | None, typer.Option(help='JSONL of {"text": …, "label": …}, shown before each question.')
    ] = None,
    schema: options.Schema = None,
    task: Annotated[str | None, typer.Option(help="The task that the contract is for.")] = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    early_exit: Annotated[
        bool, typer.Option(help="Let hopeless queries leave before or while the device answers.")
    ] = True,
    ask_cloud: Annotated[
        bool, typer.Option("--ask-cloud", help="Ask the cloud too where the promise does not need it.")
    ] = False,
    max_usd: Annotated[
        float | None, typer.Option("--max-usd", help="Refuse when the cloud may cost more than this.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Pay without being asked.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Ask everything again, also what an earlier run did.")
    ] = False,
    model: options.Model = None,
    engine: options.Engine = None,
    n_ctx: options.Context = None,
    cloud: options.Cloud = None,
    cloud_base_url: options.CloudBaseUrl = None,
    cloud_key_variable: options.CloudKeyVariable = None,
    privacy: options.Privacy = None,
    ledger: options.UseLedger = None,
    json: options.Json = False,
) -> None:
    """Ask every prompt, judge the answers, and certify a promise about those that stay on the device.

    Ctrl-C stops at once; the same command goes on where it stopped.
    """
    from edgeai.calibrate import Fitting, Promise, read_data
    from edgeai.calibrate import calibrate as run
    from edgeai.cli.opening import open_edge

    promise, rows = Promise.parse(contract), read_data(data)
    found_schema = None if schema is None else options.read_schema(schema)
    asked = _task(
        method or ("choose" if rows.choices else "extract" if found_schema or rows.schema else "ask"),
        task, system, examples, found_schema, max_tokens, temperature,
    )  # fmt: skip
    settings = options.read_settings(
        {
            "model": model, "engine": engine, "n_ctx": n_ctx, "cloud": cloud,
            "cloud_base_url": cloud_base_url, "cloud_key_variable": cloud_key_variable,
            "privacy": privacy, "ledger": ledger,
        }
    )  # fmt: skip
    _check_files(out, report)
    if report is not None:
        import edgeai.calibrate.plots  # noqa: F401  # raises MissingExtra before the work
    # nothing decides but what is calibrated
    settings = replace(settings, min_score=None, contract=None, deadline_s=None)
    with open_edge(settings) as edge, _stoppable() as progress:
        found = run(
            edge, rows, promise, task=asked, scorer=scorer, ask_cloud=ask_cloud, restart=restart,
            fitting=Fitting(good=good, stages=early_exit),
            confirm=lambda bill: _is_confirmed(bill, max_usd, yes=yes), progress=progress,
        )  # fmt: skip
    _write(found, out, report, json=json)


def _task(
    method: "Method", name: str | None, system: str | None, examples: Path | None,
    schema: "JsonSchema | None", max_tokens: int | None, temperature: float | None,
) -> "Task":  # fmt: skip
    from edgeai.calibrate import Task, read_examples

    return Task(
        method=method,
        name=name,
        system=system,
        examples=() if examples is None else read_examples(examples),
        schema=schema,
        max_tokens=max_tokens,
        temperature=temperature or 0.0,
    )


def _check_files(*paths: Path | None) -> None:
    """What takes minutes should not fail at its end for want of a place to write to."""
    for path in paths:
        if path is not None and not path.absolute().parent.is_dir():
            raise ConfigError(f"There is no folder for {path}", remedy="Make it, or choose another place")
        if path is not None and path.is_dir():
            raise ConfigError(f"{path} is a folder", remedy="Name a file")


def _is_confirmed(bill: "Estimate", max_usd: float | None, *, yes: bool) -> bool:
    """Show the price, and ask; without a terminal only --yes is an answer."""
    typer.echo(f"{bill}.", err=True)
    if max_usd is not None and (bill.most_usd is None or bill.most_usd > max_usd):
        raise BudgetExceeded(
            f"The cloud may cost more than ${max_usd:.4f}",
            why=str(bill),
            remedy="Raise --max-usd, or give fewer rows",
        )
    if yes:
        return True
    if not sys.stdin.isatty():
        raise ConfigError("Nobody is there to confirm the price", remedy="Give --yes")
    if not typer.confirm("Go on?", err=True):
        raise typer.Exit(Exit.STOPPED)
    return True


@contextmanager
def _stoppable() -> Iterator["Progress"]:
    """Shows how far it is and how long it will take; Ctrl-C ends it with what to do next."""
    from edgeai.cli.progress import counting

    reached = (0, 0)
    with counting("asking") as show:

        def progress(done: int, total: int) -> None:
            nonlocal reached
            reached = (done, total)
            show(done, total)

        try:
            yield progress
        except KeyboardInterrupt:
            typer.echo(
                f"Stopped; {reached[0]} of {reached[1]} queries are done and kept. The same command goes on.",
                err=True,
            )
            raise typer.Exit(Exit.STOPPED) from None


def _write(found: "Calibration", out: Path | None, report: Path | None, *, json: bool) -> None:
    """Report and verdict of either result; the contract, or the refusal as an error."""
    from edgeai.cli.output import write_json, write_text

    if report is not None:
        from edgeai.calibrate.html import page

        write_text(report, page(found.report))
    if json:
        write_json(asdict(found.report))
    if found.refusal is not None:
        raise found.refusal
    if out is not None:
        found.save(out)
    if not json:
        _tell(found.report)


def _tell(report: "Report") -> None:
    from edgeai.cli.output import write_table

    counts, costs = report.counts, report.costs
    typer.echo(report.verdict)
    if left_out := counts.duplicates:
        typer.echo(
            f"{left_out} rows repeated a prompt and were left out, {counts.conflicts} with another reference."
        )
    if counts.strangers:
        typer.echo(f"{counts.strangers} references are none of the choices; those answers count as wrong.")
    if costs is not None:
        price = "an unknown price" if costs.cloud_usd is None else f"${costs.cloud_usd:.4f}"
        typer.echo(f"Of 1,000 queries about {costs.escalated:.0f} will go to the cloud, for {price}.")
    write_table(
        ("SCORE", "AUROC", "APGR", "KEPT AT 5 %", "AT 10 %", "AT 20 % RISK"),
        [
            (
                score.name, _number(score.auroc), _number(score.apgr), _number(score.coverage_at_5),
                _number(score.coverage_at_10), _number(score.coverage_at_20),
            )
            for score in report.scores
        ],
    )  # fmt: skip


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.3f}"
