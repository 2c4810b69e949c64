"""Price tables of one's own, for servers that no public list knows.

# prices.toml
date = 2026-11-01

[clouds."vllm:*"]               # provider:model, with * for any
prompt_usd = 0.05               # US dollars per million tokens
completion_usd = 0.15
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self

from edgeai.economics import RATES, Price
from edgeai.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceTable:
    """Prices by pattern of ``provider:model``; the first that fits counts."""

    prices: Mapping[str, Price] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a TOML file. Raises ConfigError for a file that cannot be read, and for an unknown name."""
        path = Path(path).expanduser()
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"Cannot read the price table {path}", why=str(error)) from error
        return cls(prices=dict(_rows(table, path)))

    def find(self, cloud: str) -> Price | None:
        """The price for "provider:model", or None when no pattern fits."""
        return next((price for pattern, price in self.prices.items() if fnmatchcase(cloud, pattern)), None)


def _rows(table: dict[str, Any], path: Path) -> Iterator[tuple[str, Price]]:
    clouds, day = table.pop("clouds", None), table.pop("date", None)
    if table or not isinstance(clouds, dict) or type(day) is not date:
        raise ConfigError(
            f"The price table {path} is not one",
            why='It has a date = 2026-11-01 (when the prices were set) and tables [clouds."provider:model"]',
        )
    for pattern, row in clouds.items():
        if not isinstance(row, dict) or not {"prompt_usd", "completion_usd"} <= row.keys() <= set(RATES):
            raise ConfigError(
                f"The price of {pattern} in {path} is {row!r}",
                remedy=f"Give prompt_usd and completion_usd, and perhaps {' and '.join(RATES[2:])}",
            )
        if any(isinstance(usd, bool) or not isinstance(usd, int | float) for usd in row.values()):
            raise ConfigError(f"The price of {pattern} in {path} is {row!r}", why="A price is a number")
        yield pattern, Price(**row, as_of=day.isoformat())
