"""The plot of a search: size against what was lost, and the frontier."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeai.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

    from edgeai.converters.picking import Row
    from edgeai.converters.proof import Proof

LEAST = 1e-4
"""Nats a token that are as good as none: the axis ends here."""
COLORS = {"llamacpp": ("C0", "llama.cpp"), "onnx": ("C2", "ONNX Runtime")}
# Where a name may stand, in points from its mark: the first place where it covers no other.
PLACES = [(dx, dy) for reach in (5, 14, 23, 32, 41) for dx, dy in ((6, reach), (6, -reach - 4), (-6, reach))]


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
    from edgeai.converters.picking import frontier

    figure = _figure()
    axes = figure.add_subplot()
    proofs = [row.proof for row in rows if row.proof.divergence is not None]
    best = [row.proof for row in frontier(rows) if row.proof.divergence is not None]
    line = [_place(row.proof) for row in frontier(rows, speed=False) if row.proof.divergence is not None]
    axes.step(*zip(*line, strict=True), where="post", color="C7", alpha=0.6, label="frontier")
    for engine, (color, title) in COLORS.items():
        own = [proof for proof in proofs if _label(proof).startswith(engine)]
        for passed, mark, words in ((True, "o", title), (False, "x", f"{title}, missed a gate")):
            places = [_place(proof) for proof in own if proof.passed == passed]
            if places:
                axes.scatter(*zip(*places, strict=True), marker=mark, color=color, label=words, zorder=3)
    axes.scatter(*_place(chosen), marker="*", s=260, color="C1", label=f"chosen: {_label(chosen)}", zorder=2)
    axes.set_yscale("log")
    axes.margins(0.12)
    axes.set_xlabel("size in MB")
    axes.set_ylabel(f"KL from the source, nats a token (at least {LEAST:g})")
    axes.set_title(f"What a smaller package costs: {chosen.package.partition('@')[0]}")
    axes.legend(fontsize=8)
    _name(figure, axes, sorted(proofs, key=lambda proof: proof not in best))
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be drawn", why=str(error), remedy="Give a .svg or .png file"
        ) from error


def _name(figure: "Figure", axes: "Axes", proofs: "Sequence[Proof]") -> None:
    """Write each name where it covers no other; those on the frontier choose first."""
    figure.draw_without_rendering()
    taken: list[Bbox] = []
    for proof in proofs:
        for dx, dy in PLACES:
            words = axes.annotate(
                _label(proof).partition("-")[2],
                _place(proof),
                (dx, dy),
                textcoords="offset points",
                fontsize=8,
                ha="left" if dx > 0 else "right",
                arrowprops={"arrowstyle": "-", "color": "C7", "lw": 0.5},
            )
            box = words.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                break
            words.remove()
        else:
            continue  # too crowded for one more name
        taken.append(box)


def _place(proof: "Proof") -> tuple[float, float]:
    assert proof.divergence is not None
    return proof.size / 1e6, max(proof.divergence.kl_mean, LEAST)


def _label(proof: "Proof") -> str:
    """The engine and the number format."""
    return proof.package.rpartition("@")[2]


def _figure() -> "Figure":
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("Plots need matplotlib", extra="calibrate", why=str(error)) from error
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
