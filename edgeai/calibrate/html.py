"""The report as one HTML page, with its figures inside: nothing is loaded from anywhere."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeai.calibrate.report import Report

__all__ = ["page", "table_page"]

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .8em;border-bottom:1px solid #ddd;"
    "text-align:right}td:first-child,th:first-child{text-align:left}figure{display:inline-block;margin:.5em}"
    ".verdict{padding:.8em 1em;border-left:4px solid #2a2;background:#f4faf4}.no{border-color:#c33;"
    "background:#fbf3f3}code{font-size:90%;overflow-wrap:anywhere}"
)


def page(report: "Report") -> str:
    """The page. Raises MissingExtra without matplotlib."""
    from edgeai.calibrate.plots import figures

    drawn = "".join(
        f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>"
        for title, svg in figures(report).items()
    )
    parts = [
        f"<h1>Calibration: {escape(report.promise)}</h1>",
        f"<p>Promise: {escape(report.in_words)}.</p>",
        f'<p class="verdict{"" if report.certificate else " no"}">{escape(report.verdict)}</p>',
        "<h2>Queries</h2>", _table(("", "queries"), _counts(report)),
        "<h2>What 1,000 queries will take</h2>", _costs(report),
        f"<h2>Scores</h2><p>Measured on the {escape(report.split)} split: {escape(str(report.pairs))}. "
        f"W is the device, S the cloud{_assumed(report)}.</p>", _scores(report),
        f"<p>{escape(_fitted(report))}</p>",
        "<h2>Figures</h2>", drawn,
        "<h2>Valid for</h2>", _table(("", "exactly this"), _binding(report)),
    ]  # fmt: skip
    return _document(report.promise, parts)


def table_page(title: str, text: str, heads: Sequence[str], rows: Iterable[Sequence[str]], svg: str) -> str:
    """A page with one table and one figure."""
    return _document(title, [f"<h1>{escape(title)}</h1>", _table(heads, rows), f"<p>{escape(text)}</p>", svg])


def _document(title: str, parts: Iterable[str]) -> str:
    body = "\n".join(parts)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _counts(report: "Report") -> Iterable[Sequence[str]]:
    names = {
        "rows": "in the data",
        "duplicates": "repeated and left out",
        "conflicts": "of those with another reference",
        "strangers": "with a reference that is no choice",
        "reused": "used by an earlier test, so for training only",
        "train": "trained the score",
        "calibration": "tested the promise",
    }
    return [(names[name], str(value)) for name, value in asdict(report.counts).items()]


def _costs(report: "Report") -> str:
    costs = report.costs
    if costs is None:
        return "<p>Without a certificate all queries go to the cloud.</p>"
    rows = [
        ("go to the cloud", f"{costs.escalated:.0f}"),
        ("US dollars for the cloud", _number(costs.cloud_usd, ".4f")),
        ("seconds for an answer of the device (median)", _number(costs.device_s, ".2f")),
        ("seconds for an answer of the cloud (median)", _number(costs.cloud_s, ".2f")),
    ]
    return _table(("", "value"), rows)


def _scores(report: "Report") -> str:
    rows = [
        (
            score.name, _number(score.auroc, ".3f"), _number(score.apgr, ".3f"), _number(score.cpt50, ".1f"),
            _number(score.cpt80, ".1f"),
            *(f"{value:.3f}" for value in (score.coverage_at_5, score.coverage_at_10, score.coverage_at_20)),
        )
        for score in report.scores
    ]  # fmt: skip
    heads = ("score", "AUROC", "APGR", "CPT50 %", "CPT80 %", "kept at 5 % risk", "at 10 %", "at 20 %")
    return _table(heads, rows)


def _fitted(report: "Report") -> str:
    probe = f", with a probe ({report.probe}) of the hidden state" if report.probe else ""
    router = "a router before generation, " if report.router else ""
    exits = (
        f"early exits after {', '.join(map(str, report.checkpoints))} tokens"
        if report.checkpoints
        else "none"
    )
    lost = "" if report.lost is None else f", which lose {report.lost:.1%} of what is kept and right"
    early = bool(report.checkpoints) or not report.router
    stages = f"{router}{exits}{lost}" if early else "a router before generation"
    return (
        f"Signals chosen by cross-validation: {report.signals}{probe}. Early stages: {stages}. "
        f"ECE {_number(report.ece, '.3f')}, Brier {_number(report.brier, '.3f')}."
    )


def _assumed(report: "Report") -> str:
    return ", which was not asked and counts as always right" if report.cloud_is_assumed else ""


def _binding(report: "Report") -> Iterable[Sequence[str]]:
    return [(name, "none" if value is None else str(value)) for name, value in asdict(report.binding).items()]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _number(value: float | None, form: str) -> str:
    return "unknown" if value is None else f"{value:{form}}"
