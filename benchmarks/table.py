"""Rows of a result, and medians that stand a noisy machine."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured figure, its aim if it has one, and whether it was reached."""

    what: str
    figure: str
    aim: str = ""
    reached: bool | None = None


def at_least(what: str, value: float, aim: float | None = None) -> Row:
    """A ratio that should be this large."""
    reached = None if aim is None else value >= aim
    return Row(what=what, figure=f"{value:.2f}", aim="" if aim is None else f"≥ {aim:g}", reached=reached)


def below(what: str, value: float, aim: float, unit: str) -> Row:
    """A figure that should be smaller than its aim."""
    return Row(what=what, figure=f"{value:.0f} {unit}", aim=f"< {aim:g} {unit}", reached=value < aim)


def plain(what: str, value: float, unit: str) -> Row:
    """A figure that depends on the machine."""
    return Row(what=what, figure=f"{value:.0f} {unit}")


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    marks = {None: "", True: "yes", False: "**no**"}
    lines = [f"| {row.what} | {row.figure} | {row.aim} | {marks[row.reached]} |" for row in rows]
    return "\n".join(["| what | measured | aim | reached |", "|---|---|---|---|", *lines])


def wide(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of many figures as Markdown."""
    lines = [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)]
    return "\n".join(lines)


def interleaved(
    contenders: Mapping[str, Callable[[], float]], *, rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Run all contenders in turn, round by round; a busy neighbour then hits all of them alike."""
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + warm_up):
        for name, run in contenders.items():
            figure = run()
            if number >= warm_up:
                figures[name].append(figure)
    return figures


def ratio(figures: Mapping[str, list[float]], above: str, under: str) -> float:
    """The median of the rounds' ratios."""
    return median(a / b for a, b in zip(figures[above], figures[under], strict=True))
