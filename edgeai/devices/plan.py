"""The plan an engine gets: how many threads, and how long a context."""

from edgeai.devices.probe import usable_cores
from edgeai.engines import DevicePlan
from edgeai.errors import ConfigError

# Enough for a chat, and its KV cache stays small; a model may be trained for 100 times as much.
DEFAULT_N_CTX = 4096


MOST_PARALLEL = 64
"""Queries at once: each has a row of logits in every batch."""


def plan(
    n_ctx: int | None,
    n_ctx_train: int,
    *,
    verbose: bool = False,
    parallel: int | None = None,
    speculate: bool = True,
) -> DevicePlan:
    """Decide for this machine. ``n_ctx`` in tokens; None means what the model was trained for, up to 4096.

    ``parallel`` queries at once; None: what the engine does best. Raises ConfigError when more is asked for
    than the model was trained for, or than 64 queries at once.
    """
    if parallel is not None and not (isinstance(parallel, int) and 0 < parallel <= MOST_PARALLEL):
        raise ConfigError(f"parallel is {parallel!r}", remedy=f"Use a number from 1 to {MOST_PARALLEL}")
    if n_ctx is not None and not (isinstance(n_ctx, int) and 0 < n_ctx <= n_ctx_train):
        raise ConfigError(
            f"n_ctx is {n_ctx!r}",
            why=f"The model was trained for contexts of 1 to {n_ctx_train} tokens",
            remedy=f"Use at most {n_ctx_train}",
        )
    return DevicePlan(
        n_ctx=n_ctx or min(n_ctx_train, DEFAULT_N_CTX),
        n_threads=usable_cores(),
        verbose=verbose,
        parallel=parallel,
        speculate=speculate,
    )
