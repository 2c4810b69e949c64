"""The plot of a search: size against what was lost, and the frontier."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeai.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from edgeai.converters.proof import Proof
    from edgeai.converters.search import Row


def check(path: Path) -> None:
    """Raise MissingExtra or ConfigError if no plot can be written there, before there is one."""
    kinds = _figure().canvas.get_supported_filetypes()
    if path.suffix.lower().removeprefix(".") not in kinds:
        raise ConfigError(
            f"{path} cannot be drawn",
            why=f"{path.suffix or 'No ending'} names no picture",
            remedy="Give a .svg or .png file",
        )
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"There is no folder for {path}", remedy="Make it, or choose another place")


def draw(rows: "Sequence[Row]", chosen: "Proof", path: Path) -> None:
    """Write the plot; the ending names the format. Raises MissingExtra or ConfigError."""
    from edgeai.converters.search import frontier

    figure = _figure()
    axes = figure.add_subplot()
    for row in rows:
        proof = row.proof
        if proof.divergence is not None:
            place = proof.size / 1e6, max(proof.divergence.kl_mean, 1e-6)
            axes.plot(*place, "o" if proof.passed else "x", color="C1" if proof == chosen else "C0")
            axes.annotate(
                proof.package.rpartition("@")[2], place, (4, 4), textcoords="offset points", fontsize=8
            )
    best = [row.proof for row in frontier(rows) if row.proof.divergence is not None]
    axes.step(
        [proof.size / 1e6 for proof in best],
        [max(proof.divergence.kl_mean, 1e-6) for proof in best if proof.divergence is not None],
        where="post",
        color="C0",
        alpha=0.4,
    )
    axes.set_yscale("log")
    axes.set_xlabel("size in MB")
    axes.set_ylabel("KL from the source, nats a token")
    axes.set_title("What a smaller package costs")
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be drawn", why=str(error), remedy="Give a .svg or .png file"
        ) from error


def _figure() -> "Figure":
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("Plots need matplotlib", extra="calibrate", why=str(error)) from error
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
