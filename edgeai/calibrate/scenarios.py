"""What the queries of the ledger would have done under other rules: thresholds, prices, contracts, outages.

The ledger knows scores, tokens, costs and times, and not whether an answer was right. What a replay cannot
know it says: a query that left while its answer was still streaming has a score that could only have fallen
further (`Replayed.unsure`), and a side that was never asked has only the typical time and price of those that
were.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeai.economics import Price
from edgeai.errors import ConfigError
from edgeai.ledger import Entry
from edgeai.monitor.contract import Contract
from edgeai.standing import contract_id
from edgeai.types import Reason, Usage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]

__all__ = ["Interval", "Replayed", "Scenario", "replay", "scenario_of"]

RESAMPLES, FEWEST = 1000, 100
MOST_DRAWS = 20_000_000  # of queries, over all resamples
STAYS = frozenset({Reason.PRIVATE, Reason.FINAL, Reason.CANCELLED})
LEAVES = frozenset(
    {
        Reason.DEADLINE,
        Reason.TOO_LONG,
        Reason.ENGINE_ERROR,
        Reason.CONTEXT_OVERFLOW,
        Reason.UNSUPPORTED,
        Reason.POLICY,
        Reason.ROUTED,
        Reason.UNCERTIFIED,
        Reason.POWER,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Other rules. ``min_score`` None: every query goes where it went. ``contract``: the threshold is for
    the scores under the contract with this id, and the other queries go where they went.

    ``price`` None: what the ledger's cloud answers cost on average. ``outage`` is the share of the time in
    which the cloud cannot be reached. Raises ConfigError out of range.
    """

    name: str
    min_score: float | None = None
    contract: str | None = None
    price: Price | None = None
    outage: float = 0.0

    def __post_init__(self) -> None:
        if self.min_score is not None and not 0 <= self.min_score <= 1:
            raise ConfigError(f"min_score is {self.min_score:g}, expected a number from 0 to 1")
        if not 0 <= self.outage <= 1:
            raise ConfigError(f"The outage is {self.outage:g}, expected a share from 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A value with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """``queries`` of the ledger under one scenario; ``private`` ones may not leave, and stay under any.

    ``escalation`` is the share that would leave, ``kept`` the share answered on the device, and
    ``kept_by_outage`` the part of that which wanted to leave. ``unsure`` is the share whose decision the
    ledger does not tell: they count as leaving. ``cost_usd`` is for 1,000 queries; ``median_s`` and
    ``p95_s`` are seconds for an answer. None where the ledger holds nothing to tell it from.
    """

    scenario: Scenario
    queries: int
    unscored: int
    private: int
    escalation: Interval
    kept: Interval
    kept_by_outage: Interval
    unsure: Interval
    cost_usd: Interval | None
    median_s: Interval | None
    p95_s: Interval | None


def scenario_of(
    contract: Contract, name: str, *, price: Price | None = None, outage: float = 0.0
) -> Scenario:
    """The contract's threshold, for the scores that were made under it."""
    return Scenario(
        name=name,
        min_score=contract.certificate.threshold,
        contract=contract_id(contract),
        price=price,
        outage=outage,
    )


def replay(entries: Sequence[Entry], scenario: Scenario, *, seed: int = 0) -> Replayed:
    """The scenario on the queries that had an answer. Raises ConfigError when none of them tells anything."""
    known = [entry for entry in entries if entry.source is not None]
    if not known:
        raise ConfigError("The ledger has no answered queries to replay", remedy="Choose a longer --since")
    judged = [_is_judged(entry, scenario) for entry in known]
    if scenario.min_score is not None and not any(judged):
        wanted = " made under it" if scenario.contract else ""
        raise ConfigError(
            f"The ledger has no scores{wanted}, so {scenario.name} cannot be replayed",
            remedy="Run queries under it first, or choose others with --task or --since",
        )
    leaves = np.array([_leaves(entry, scenario) for entry in known])
    unsure = np.array([float(_is_unsure(entry, scenario)) for entry in known])
    prices, seconds = _prices(known, scenario.price), _seconds(known, leaves, scenario.outage)
    reached = leaves * (1 - scenario.outage)
    columns = {
        "escalation": reached,
        "kept": 1 - reached,
        "by_outage": leaves * scenario.outage,
        "unsure": unsure,
    }
    if prices is not None:
        columns["cost"] = 1000 * reached * prices
    elif not leaves.any():  # what nobody is asked costs nothing, at whatever price
        columns["cost"] = np.zeros(len(known))
    found = _intervals(columns, seconds, seed)
    return Replayed(
        scenario=scenario,
        queries=len(known),
        unscored=sum(entry.score is None for entry in known),
        private=sum(entry.reason == Reason.PRIVATE for entry in known),
        escalation=found["escalation"],
        kept=found["kept"],
        kept_by_outage=found["by_outage"],
        unsure=found["unsure"],
        cost_usd=found.get("cost"),
        median_s=found.get("median"),
        p95_s=found.get("p95"),
    )


def _is_judged(entry: Entry, scenario: Scenario) -> bool:
    return entry.score is not None and scenario.contract in (None, entry.contract)


def _leaves(entry: Entry, scenario: Scenario) -> float:
    """1 when the query would leave: what left for another reason than its score leaves again."""
    if scenario.min_score is None or scenario.contract not in (None, entry.contract):
        return float(entry.source == "cloud")
    if entry.reason in STAYS:
        return 0.0
    if entry.source == "cloud" and entry.reason in LEAVES:
        return 1.0
    if entry.score is None:  # a missing score never counts as confident
        return 1.0
    return float(entry.score < scenario.min_score or _is_unsure(entry, scenario))


def _is_unsure(entry: Entry, scenario: Scenario) -> bool:
    """Left while streaming, at a higher threshold: nobody knows how low its score would have fallen."""
    return (
        entry.source == "cloud"
        and entry.reason == Reason.LOW_CONFIDENCE
        and scenario.min_score is not None
        and entry.score is not None
        and scenario.contract in (None, entry.contract)
        and entry.score >= scenario.min_score
    )


def _prices(entries: Sequence[Entry], price: Price | None) -> "Floats | None":
    """What each query costs in the cloud, US dollars. Tokens of the device stand for the cloud's."""
    if price is not None:
        costs = [price.cost(Usage(
            prompt_tokens=entry.prompt_tokens, completion_tokens=entry.completion_tokens,
            cached_tokens=entry.cached_tokens if entry.source == "cloud" else 0,
        )) for entry in entries]  # fmt: skip
    else:
        costs = [entry.cost_usd if entry.source == "cloud" else None for entry in entries]
    known = [cost for cost in costs if cost is not None]
    if not known:
        return None
    typical = float(np.mean(known))
    return np.array([typical if cost is None else cost for cost in costs])


def _seconds(entries: Sequence[Entry], leaves: "Floats", outage: float) -> "Floats | None":
    """How long each answer takes. One that stays takes the device's time; one that leaves its own time
    if it left before, else the device's and then the cloud's median. During an outage the query stays; which
    ones these are is drawn at random, and what a timeout costs is not counted.
    """
    device = [entry.total_s for entry in entries if entry.source == "device" and entry.total_s is not None]
    cloud = [entry.total_s for entry in entries if entry.source == "cloud" and entry.total_s is not None]
    if (leaves.any() and not cloud) or (not leaves.all() and not device):
        return None
    here = float(np.median(device)) if device else 0.0
    there = float(np.median(cloud)) if cloud else 0.0
    out = np.random.default_rng(1).random(len(entries)) < outage
    found = []
    for entry, away, dead in zip(entries, leaves > 0, out, strict=True):
        own = entry.total_s
        local = own if entry.source == "device" and own is not None else here
        remote = own if entry.source == "cloud" and own is not None else local + there
        found.append(remote if away and not dead else local)
    return np.array(found)


def _intervals(columns: "Mapping[str, Floats]", seconds: "Floats | None", seed: int) -> dict[str, Interval]:
    """The means of the columns, and the quantiles of the seconds, over resamples of the queries."""
    table = np.stack(list(columns.values()))
    n = table.shape[1]
    random = np.random.default_rng(seed)
    resamples = max(FEWEST, min(RESAMPLES, MOST_DRAWS // n))
    found = _statistics(table, seconds, np.arange(n))
    drawn = [_statistics(table, seconds, random.integers(0, n, size=(n,))) for _ in range(resamples)]
    low, high = np.quantile(np.stack(drawn), [0.025, 0.975], axis=0)
    names = [*columns, *(() if seconds is None else ("median", "p95"))]
    return {
        name: Interval(value=float(found[at]), low=float(low[at]), high=float(high[at]))
        for at, name in enumerate(names)
    }


def _statistics(table: "Floats", seconds: "Floats | None", rows: "NDArray[np.integer]") -> "Floats":
    means = table @ np.bincount(rows, minlength=table.shape[1]) / table.shape[1]
    if seconds is None:
        return np.asarray(means, float)
    return np.concatenate([means, np.quantile(seconds[rows], [0.5, 0.95])])
