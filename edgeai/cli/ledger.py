"""`edgeai ledger`: what was asked, answered and paid, without the texts."""

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edgeai.cli import options
from edgeai.errors import ConfigError

if TYPE_CHECKING:
    from edgeai.ledger import Entry, Totals

app = typer.Typer(add_completion=False, rich_markup_mode=None)
Limit = Annotated[int, typer.Option("--limit", "-n", min=0, help="How many to list.")]

UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@app.callback(invoke_without_command=True)
def ledger(
    ctx: typer.Context,
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="How many queries to list.")] = 20,
    since: Annotated[str | None, typer.Option(help="30m, 24h, 7d, 4w, or a date like 2026-01-31.")] = None,
    source: Annotated[
        Literal["device", "cloud"] | None, typer.Option(help="Where they were answered.")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why, such as low_confidence.")] = None,
    json: options.Json = False,
) -> None:
    """The latest queries, and totals over all that fit; or what left the device."""
    if ctx.invoked_subcommand is not None:
        return
    from edgeai.cli.output import write_json
    from edgeai.ledger import Ledger

    begin = None if since is None else moment(since)
    with Ledger.open() as record:
        rows = record.rows(limit, since=begin, source=source, reason=reason)
        totals = record.totals(since=begin, source=source, reason=reason)
    if json:
        write_json({"queries": rows, "totals": totals})
        return
    _write_rows(rows)
    typer.echo(_sentence(totals))


@app.command()
def disclosures(*, limit: Limit = 20, json: options.Json = False) -> None:
    """What was handed to the network, newest first: where to, how much, what was redacted."""
    from edgeai.cli.output import write_json, write_table
    from edgeai.ledger import Ledger

    with Ledger.open() as record:
        rows = record.disclosures.rows(limit)
    if json:
        write_json(rows)
    elif not rows:
        typer.echo("Nothing was handed to the network.")
    else:
        write_table(
            ("NUMBER", "TIME", "ENDPOINT", "BYTES", "LABELS", "REDACTED", "SHA256"),
            [
                (
                    str(row.number),
                    row.time,
                    row.endpoint,
                    str(row.n_bytes),
                    ", ".join(row.labels) or "none",
                    ", ".join(f"{n} {kind}" for kind, n in row.redactions.items()) or "none",
                    row.sha256[:16],
                )
                for row in rows
            ],
        )


@app.command()
def verify(*, json: options.Json = False) -> None:
    """Check that no row of the disclosure record was altered or removed; exit code 7 if one was."""
    from edgeai.cli.output import write_json
    from edgeai.errors import LedgerError
    from edgeai.ledger import Ledger

    with Ledger.open() as record:
        verdict = record.disclosures.verify()
    if verdict.faults:
        raise LedgerError("The disclosure record was changed", why="; ".join(verdict.faults))
    if json:
        write_json(verdict)
    else:
        typer.echo(f"{verdict.rows} disclosures: none was altered or removed.")


def _write_rows(rows: "tuple[Entry, ...]") -> None:
    from edgeai.cli.output import write_table

    if rows:
        headers = (
            "TIME",
            "SOURCE",
            "MODEL",
            "REASON",
            "SCORE",
            "CERTIFIED",
            "TOKENS",
            "FIRST",
            "TOTAL",
            "TOK/S",
            "COST",
            "SENT",
        )
        write_table(headers, [_cells(row) for row in rows])


def _cells(row: "Entry") -> tuple[str, ...]:
    when = datetime.fromisoformat(row.time).astimezone()
    return (
        when.strftime("%Y-%m-%d %H:%M:%S"),
        _where(row),
        row.model,
        row.error or row.reason or "?",
        _number(row.score, ".2f"),
        "yes" if row.certified else "no" if row.contract else "-",
        _number(row.completion_tokens, "d"),
        _number(row.ttft_s, ".2f", " s"),
        _number(row.total_s, ".2f", " s"),
        _number(row.decode_tps, ".0f"),
        "?" if row.cost_usd is None else f"${row.cost_usd:.6f}",
        f"{row.disclosed_bytes} B",
    )


def _where(row: "Entry") -> str:
    """Who answered, and on what, where that is not the processor."""
    if row.source == "device" and row.device not in (None, "cpu"):
        return f"device: {row.device}"
    return row.source or "none"


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "?" if value is None else f"{value:{form}}{unit}"


def _sentence(totals: "Totals") -> str:
    audits = f", {totals.audits} audits" if totals.audits else ""
    unpriced = f" and {totals.unpriced} of unknown price" if totals.unpriced else ""
    return (
        f"{totals.queries} queries: {totals.device} on the device, {totals.cloud} in the cloud, "
        f"{totals.errors} failed{audits}; ${totals.cost_usd:.6f}{unpriced}; "
        f"{totals.disclosed_bytes} bytes left the device."
    )


def moment(text: str) -> datetime:
    """The begin of a span such as 24h, or a date. Raises ConfigError."""
    try:
        if span := re.fullmatch(r"(\d{1,6})([mhdw])", text):
            return datetime.now(UTC) - timedelta(**{UNITS[span[2]]: int(span[1])})
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):  # no date, or none that a calendar has
        raise ConfigError(
            f"--since is {text!r}", remedy="Give 30m, 24h, 7d, 4w, or a date like 2026-01-31"
        ) from None
