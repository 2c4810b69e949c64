"""The figures of a report as SVG. The one module that needs matplotlib."""

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edgeai.errors import MissingExtra
from edgeai.monitor.promise import Promise

try:
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingExtra("A report with figures needs matplotlib", extra="calibrate", why=str(error)) from error

if TYPE_CHECKING:
    from edgeai.calibrate.report import Report
    from edgeai.calibrate.scenarios import Replayed

__all__ = ["escalations", "figures"]

OURS = {"our score": ("C0", "-", 2.0), "oracle": ("0.4", ":", 1.2), "random": ("0.7", "--", 1.0)}


def figures(report: "Report") -> dict[str, str]:
    """The report's curves as SVG texts, by title; the same report gives the same bytes."""
    return {
        "Reliability": _svg(lambda axes: _reliability(axes, report)),
        "Risk against coverage": _svg(lambda axes: _risk(axes, report)),
        "Deferral": _svg(lambda axes: _deferral(axes, report)),
        "Scores of right and wrong answers": _svg(lambda axes: _histogram(axes, report)),
    }


def escalations(found: "Sequence[Replayed]") -> str:
    """The escalation rate of each scenario with its interval, as SVG."""

    def draw(axes: Axes) -> None:
        for place, row in enumerate(found):
            rate = row.escalation
            axes.plot([rate.low, rate.high], [place, place], color="C0")
            axes.plot([rate.value], [place], "o", color="C0")
        axes.set(yticks=range(len(found)), yticklabels=[row.scenario.name for row in found])
        axes.set(xlabel="share that goes to the cloud", xlim=(-0.02, 1.02))

    return _svg(draw)


def _svg(draw: Callable[[Axes], None]) -> str:
    out = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "edgeai", "font.size": 9, "svg.fonttype": "path"}):
        figure = Figure(figsize=(5.2, 3.6), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.grid(alpha=0.25)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7)
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = out.getvalue()
    return text[text.index("<svg") :]


def _reliability(axes: Axes, report: "Report") -> None:
    axes.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1, label="perfect")
    if points := report.curves.reliability:
        axes.plot(*zip(*points, strict=True), marker="o", label="measured, equal parts")
    axes.set(xlabel="confidence", ylabel="share right", xlim=(0, 1), ylim=(0, 1))


def _risk(axes: Axes, report: "Report") -> None:
    coverage, risk = zip(*report.curves.risk, strict=True)
    axes.step(coverage, risk, where="post", label="risk among the kept")
    if (proof := report.certificate) is not None:
        axes.axvline(proof.coverage, color="C2", linewidth=1, label=f"threshold {proof.threshold:.3f}")
        axes.plot([proof.coverage], [proof.errors / proof.kept], "o", color="C2")
    if bound := _bound(Promise.parse(report.promise), coverage):
        axes.plot(coverage, bound, color="C3", linestyle="--", linewidth=1, label="promised at most")
    axes.set(xlabel="coverage: share kept on the device", ylabel="risk", xlim=(0, 1), ylim=(0, None))


def _bound(promise: Promise, coverage: Sequence[float]) -> list[float]:
    """The risk among the kept that is promised, at each coverage; nothing where a quality is promised.

    An overall error counts the kept alone among all queries.
    """
    match promise.kind:
        case "error" | "disagreement":
            return [promise.bound] * len(coverage)
        case "overall-error":
            return [min(1.0, promise.bound / share) if share else 1.0 for share in coverage]
        case _:
            return []


def _deferral(axes: Axes, report: "Report") -> None:
    for name, points in report.curves.deferral.items():
        color, style, width = OURS.get(name, (None, "-", 0.9))
        rate, quality = zip(*points, strict=True)
        axes.plot(rate, quality, color=color, linestyle=style, linewidth=width, label=name)
    cloud = " (as if the cloud were always right)" if report.cloud_is_assumed else ""
    axes.set(xlabel="escalation rate", ylabel=f"quality{cloud}", xlim=(0, 1))


def _histogram(axes: Axes, report: "Report") -> None:
    both = (report.curves.right, report.curves.wrong)
    axes.hist(both, bins=20, range=(0, 1), stacked=True, color=("C0", "C3"), label=("right", "wrong"))
    if report.certificate is not None:
        axes.axvline(report.certificate.threshold, color="C2", linewidth=1, label="threshold")
    axes.set(xlabel="score", ylabel="answers", xlim=(0, 1))
