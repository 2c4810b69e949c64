"""Observations as a table of numbers, and scores over whole tables: the same arithmetic as at run time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeai.monitor.examples import Observation
from edgeai.monitor.score import Category, Column, Score

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]
    Rows = NDArray[np.intp]

__all__ = ["Levels", "Table", "columns", "levels", "matrix", "predict", "tabulate"]

LEAST_PRESENT = 0.9

Levels = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """``values`` has a row an observation and a column a name, NaN where unknown; ``texts`` by category."""

    places: Mapping[str, int]
    values: "Floats"
    texts: Mapping[str, tuple[str | None, ...]]

    def column(self, name: str) -> "Floats":
        """One feature of all rows, NaN throughout when nobody has it."""
        if name not in self.places:
            return np.full(len(self.values), np.nan)
        found: Floats = self.values[:, self.places[name]]
        return found

    def take(self, rows: "Rows") -> "Table":
        """These rows."""
        texts = {name: tuple(values[row] for row in rows) for name, values in self.texts.items()}
        return Table(places=self.places, values=self.values[rows], texts=texts)


def tabulate(seen: Sequence[Observation]) -> Table:
    """All features and categories of the observations."""
    names = sorted({name for item in seen for name in item.features})
    rows = [[_number(item.features.get(name)) for name in names] for item in seen]
    kinds = sorted({name for item in seen for name in item.categories})
    return Table(
        places={name: at for at, name in enumerate(names)},
        values=np.array(rows, float).reshape(len(seen), len(names)),
        texts={name: tuple(item.categories.get(name) for item in seen) for name in kinds},
    )


def columns(table: Table, names: Sequence[str], y: "NDArray[np.generic]") -> list[Column]:
    """The usable features: present nearly everywhere and not constant.

    The weight is, until it is fitted, the sign of the feature's covariance with ``y``.
    """
    found, outcome = [], np.asarray(y, float)
    for name in names:
        values = table.column(name)
        here = np.isfinite(values)
        if here.mean() < LEAST_PRESENT or np.ptp(known := values[here]) < 1e-9:
            continue
        sign = float(np.sign(np.sum((known - known.mean()) * (outcome[here] - outcome[here].mean())))) or 1.0
        low, high = float(known.min()), float(known.max())
        mean, scale = float(known.mean()), float(known.std())
        found.append(Column(name=name, mean=mean, scale=scale, low=low, high=high, weight=sign))
    return found


def levels(table: Table) -> Levels:
    """The values of each category, where there is more than one."""
    found = {
        name: sorted({text for text in texts if text is not None}) for name, texts in table.texts.items()
    }
    return {name: values for name, values in found.items() if len(values) > 1}


def matrix(table: Table, fitted: Sequence[Column], known: Levels) -> "Floats":
    """Standardised features and indicators; a missing value is the least confident one."""
    parts = [_terms(column, table) * column.weight for column in fitted]
    for name, values in known.items():
        texts = table.texts[name]
        parts.extend(np.array([text == value for text in texts], float) for value in values)
    return np.stack(parts, axis=1) if parts else np.zeros((len(table.values), 0))


def predict(score: Score, table: Table) -> "Floats":
    """The logits of a score without its probe (whose logit is a feature of the table)."""
    logits = np.full(len(table.values), score.intercept)
    for column in score.columns:
        logits += _terms(column, table)
    for category in score.categories:
        logits += _category(category, table)
    return logits


def _terms(column: Column, table: Table) -> "Floats":
    values = table.column(column.name)
    z = column.weight * (np.clip(values, column.low, column.high) - column.mean) / column.scale
    return np.where(np.isfinite(values), z, column.term(None))


def _category(category: Category, table: Table) -> "Floats":
    texts = table.texts.get(category.name, (None,) * len(table.values))
    return np.array([category.term(text) for text in texts], float)


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)
