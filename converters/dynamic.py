"""Eight bits with inputs that are rounded as they come, but for the layers that cannot bear it.

One step for all of an input's numbers is coarse where a few of them are large, as before ``down``. What each
group of matrices costs is measured; those whose costs add up to little are lowered, the others keep blocks.
"""

from collections.abc import Callable, Mapping
from typing import Final

from edgeai.converters.channels import Channels
from edgeai.converters.decoder import Matrix, Source, need
from edgeai.converters.halfway import Halfway
from edgeai.converters.layers import Tokens
from edgeai.converters.scaling import GROUPS, Site
from edgeai.converters.sensitivity import costs
from edgeai.converters.tuned import Tuned

__all__ = ["lower", "sites_to_lower"]

_BUDGET: Final = 0.01
"""Nats a token that all lowered groups may cost together: half of what the gates allow large models."""

_PROBE: Final = 256


def lower(
    source: Source,
    tokens: Tokens,
    *,
    budget: float = _BUDGET,
    n_threads: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
    halfway: Halfway | None = None,
) -> Tuned:
    """The source with most of its layers' matrices stored by channel, at a cost of ``budget`` nats a token.

    ``tokens`` are windows of calibration text. ``halfway`` keeps what was measured.
    """
    matrices: dict[tuple[str, int | None], Matrix] = {
        (role, number): Channels(inner=need(source, role, number))
        for number in range(source.decoder.n_layers)
        for roles in GROUPS.values()
        for role in roles
    }
    lowered = Tuned(source=source, matrices=matrices)
    priced = costs(
        source, lowered, tokens[:1, :_PROBE], n_threads=n_threads, progress=progress, halfway=halfway
    )
    roles = {(role, number) for group, number in sites_to_lower(priced, budget) for role in GROUPS[group]}
    return Tuned(source=source, matrices={key: found for key, found in matrices.items() if key in roles})


def sites_to_lower(costs: Mapping[Site, float], budget: float) -> frozenset[Site]:
    """As many sites as together cost no more than ``budget``: the cheapest."""
    chosen = set()
    for site in sorted(costs, key=lambda site: costs[site]):
        budget -= costs[site]
        if budget < 0:
            break
        chosen.add(site)
    return frozenset(chosen)
