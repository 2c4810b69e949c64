"""What each group of matrices costs when it is lowered: the KL divergence, measured one by one.

All variants of the model go through its layers side by side, each with one group lowered, so that the model
is read once however many there are.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from edgeai.converters.decoder import Floats, Source
from edgeai.converters.halfway import Halfway
from edgeai.converters.layers import Layer, Tokens, embed, layer, logits
from edgeai.converters.scaling import GROUPS, Site
from edgeai.converters.tuned import Tuned

__all__ = ["costs", "sites_to_keep"]

_STATES = "states"


def costs(
    source: Source,
    lowered: Tuned,
    tokens: Tokens,
    *,
    n_threads: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
    halfway: Halfway | None = None,
) -> Mapping[Site, float]:
    """The mean KL divergence (nats a token) from ``source`` of the model with one site as in ``lowered``.

    ``tokens`` are windows of text; a few hundred tokens rank the sites well. What ``halfway`` has
    of it is taken from there.
    """
    n_layers = source.decoder.n_layers
    known = None if halfway is None else halfway.costs()
    first, states, variants = _resumed(known) if known is not None else (0, embed(source, tokens), {})
    if first:
        progress(first, n_layers)
    for number in range(first, n_layers):
        with layer(source, number, tokens.shape[1], n_threads) as plain:
            variants = {site: _run(plain, found) for site, found in variants.items()}
            for group in GROUPS:
                mixed = _with_site(source, lowered, group, number)
                if mixed.matrices:
                    with layer(mixed, number, tokens.shape[1], n_threads) as rounded:
                        variants[group, number] = _run(rounded, states)
            states = _run(plain, states)
        if halfway is not None:
            named = {f"{group}.{at}": found for (group, at), found in variants.items()}
            halfway.keep_costs(number, {**named, _STATES: states})
        progress(number + 1, n_layers)
    expected = _flat(states)
    return {site: divergence(source, expected, _flat(found)) for site, found in variants.items()}


def _resumed(known: tuple[int, Mapping[str, Floats]]) -> tuple[int, Floats, dict[Site, Floats]]:
    """The layer to go on with, and what the layers before it make of the text, as it is and varied."""
    number, found = known
    sites = (key.split(".") for key in found if key != _STATES)
    return number + 1, found[_STATES], {(group, int(at)): found[f"{group}.{at}"] for group, at in sites}


def divergence(source: Source, expected: Floats, found: Floats) -> float:
    """Mean KL divergence in nats between what the head makes of two sets of states, (n, n_embd) each."""
    total = 0.0
    for left, right in zip(logits(source, expected), logits(source, found), strict=True):
        p, q = _log_softmax(left), _log_softmax(right)
        total += float((np.exp(p) * (p - q)).sum())
    return total / len(expected)


def sites_to_keep(costs: Mapping[Site, float], savings: Mapping[Site, int], spare: int) -> frozenset[Site]:
    """The sites that stay as they are: those whose lowering costs most for each byte that it saves.

    ``savings`` are the bytes that lowering a site saves, ``spare`` is how many bytes need not be saved.
    """
    keep = set()
    for site in sorted(costs, key=lambda site: costs[site] / savings[site], reverse=True):
        if savings[site] <= spare:
            spare -= savings[site]
            keep.add(site)
    return frozenset(keep)


def _with_site(source: Source, lowered: Tuned, group: str, number: int) -> Tuned:
    roles = ((role, number) for role in GROUPS[group])
    return Tuned(
        source=source, matrices={key: lowered.matrices[key] for key in roles if key in lowered.matrices}
    )


def _run(through: Layer, states: Iterable[Floats]) -> Floats:
    return np.stack([through.run(window) for window in states])


def _flat(states: Floats) -> Floats:
    return states.reshape(-1, states.shape[-1])


def _log_softmax(raw: Floats) -> Floats:
    shifted = raw - raw.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), np.float32)
