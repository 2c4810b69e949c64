"""`edgeai simulate`: what the ledger's queries would have done under other rules."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeai.cli import options
from edgeai.errors import ConfigError

if TYPE_CHECKING:
    from edgeai.calibrate.scenarios import Interval, Replayed, Scenario
    from edgeai.economics import Price
    from edgeai.ledger import Entry

app = typer.Typer(add_completion=False, rich_markup_mode=None)

ALL = 1_000_000
UNKNOWN = "The ledger does not know whether an answer was right: nothing here tells how many errors are kept."


@app.command()
def simulate(
    *,
    min_score: Annotated[
        list[float] | None,
        typer.Option("--min-score", help="Ask the cloud below this score; may be repeated."),
    ] = None,
    contract: Annotated[
        list[Path] | None,
        typer.Option(help="A contract's threshold, on the scores made under it; may be repeated."),
    ] = None,
    price: Annotated[
        str | None,
        typer.Option(help="US dollars per million tokens, as PROMPT,COMPLETION; else what was paid."),
    ] = None,
    outage: Annotated[float, typer.Option(help="The share of time without a cloud, 0 to 1.")] = 0.0,
    since: Annotated[str | None, typer.Option(help="30m, 24h, 7d, 4w, or a date like 2026-01-31.")] = None,
    task: Annotated[str | None, typer.Option(help="Only queries of this task.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the table with a figure here.")] = None,
    json: options.Json = False,
) -> None:
    """Replay the recorded queries under other thresholds, prices, contracts or outages.

    Without options they are replayed as they were. Each value has a 95 % bootstrap interval.
    """
    from edgeai.calibrate.scenarios import replay
    from edgeai.cli.output import write_json, write_table

    scenarios = _scenarios(min_score or (), contract or (), _price(price), outage)
    entries = _entries(since, task)
    found = [replay(entries, scenario) for scenario in scenarios]
    if html is not None:
        _write_page(html, found)
    if json:
        write_json(found)
        return
    write_table(HEADS, [_cells(row) for row in found])
    counts = f"{found[0].queries} queries, {found[0].unscored} of them without a score"
    stay = f", {found[0].private} private, which stay under any rule" if found[0].private else ""
    typer.echo(f"{counts}{stay}. {UNKNOWN}")


HEADS = ("RULES", "TO THE CLOUD", "KEPT", "BY OUTAGE", "UNSURE", "$ PER 1,000", "MEDIAN", "P95")


def _scenarios(
    scores: Sequence[float], contracts: Sequence[Path], price: "Price | None", outage: float
) -> "list[Scenario]":
    from edgeai.calibrate.scenarios import Scenario, scenario_of
    from edgeai.monitor import contract

    found = [
        Scenario(name=f"min_score {score:g}", min_score=score, price=price, outage=outage) for score in scores
    ]
    found += [scenario_of(contract.load(path), path.name, price=price, outage=outage) for path in contracts]
    return found or [Scenario(name="as it was", price=price, outage=outage)]


def _entries(since: str | None, task: str | None) -> "list[Entry]":
    from edgeai.calibrate.cloud import LEDGER_TASK
    from edgeai.cli.ledger import moment
    from edgeai.ledger import Ledger

    with Ledger.open() as ledger:
        rows = ledger.rows(ALL, since=None if since is None else moment(since))
    if task is None:
        return [row for row in rows if row.task != LEDGER_TASK]  # a calibration is no use
    return [row for row in rows if row.task == task]


def _price(text: str | None) -> "Price | None":
    from edgeai.economics import Price

    if text is None:
        return None
    try:
        prompt, completion = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"--price is {text!r}", remedy="Give US dollars per million tokens, as 0.15,0.60"
        ) from None
    return Price(prompt_usd=prompt, completion_usd=completion)


def _cells(row: "Replayed") -> tuple[str, ...]:
    return (
        row.scenario.name,
        *(_percent(value) for value in (row.escalation, row.kept, row.kept_by_outage, row.unsure)),
        _number(row.cost_usd, ".4f", "$"),
        _number(row.median_s, ".2f"),
        _number(row.p95_s, ".2f"),
    )


def _percent(value: "Interval") -> str:
    return f"{value.value:.1%} ({value.low:.1%}–{value.high:.1%})"


def _number(value: "Interval | None", form: str, unit: str = "") -> str:
    if value is None:
        return "?"
    return f"{unit}{value.value:{form}} ({value.low:{form}}–{value.high:{form}})"


def _write_page(path: Path, found: "Sequence[Replayed]") -> None:
    from edgeai.calibrate.html import table_page
    from edgeai.calibrate.plots import escalations
    from edgeai.cli.output import write_text

    rows = [_cells(row) for row in found]
    write_text(
        path,
        table_page("What the ledger's queries would have done", UNKNOWN, HEADS, rows, escalations(found)),
    )
