"""The plan an engine gets: how many threads, and how long a context."""

from dataclasses import replace

from edgeai.devices.probe import usable_cores
from edgeai.devices.tuning import Tuning
from edgeai.engines import DevicePlan
from edgeai.errors import ConfigError

# Enough for a chat, and its KV cache stays small; a model may be trained for 100 times as much.
DEFAULT_N_CTX = 4096


# More are a slip of the finger, and the engines would make them all.
MOST_THREADS = 512
# Each query at once has a row of logits in every batch.
MOST_PARALLEL = 64


def plan(
    n_ctx: int | None,
    n_ctx_train: int,
    *,
    threads: int | None = None,
    tuning: Tuning | None = None,
    exact: bool = False,
    verbose: bool = False,
    parallel: int | None = None,
    speculate: bool = True,
) -> DevicePlan:
    """Decide for this machine. ``n_ctx`` in tokens; None means what the model was trained for, up to 4096.

    ``threads`` compute, at all times; None means one a core, and fewer while others use those. ``tuning`` is
    what was measured here; ``exact`` leaves out of it what would change answers. ``parallel`` queries are
    answered at once; None: what the engine does best.
    Raises ConfigError when more is asked for than the model was trained for, or for a number that cannot be.
    """
    _check_threads(threads)
    if parallel is not None and not (isinstance(parallel, int) and 0 < parallel <= MOST_PARALLEL):
        raise ConfigError(f"parallel is {parallel!r}", remedy=f"Use a number from 1 to {MOST_PARALLEL}")
    if n_ctx is not None and not (isinstance(n_ctx, int) and 0 < n_ctx <= n_ctx_train):
        raise ConfigError(
            f"n_ctx is {n_ctx!r}",
            why=f"The model was trained for contexts of 1 to {n_ctx_train} tokens",
            remedy=f"Use at most {n_ctx_train}",
        )
    usual = DevicePlan(
        n_ctx=n_ctx or min(n_ctx_train, DEFAULT_N_CTX),
        n_threads=usable_cores(),
        verbose=verbose,
        parallel=parallel,
        speculate=speculate,
    )
    tuned = usual if tuning is None else tuning.apply(usual, exact=exact)
    return tuned if threads is None else replace(tuned, n_threads=threads, follow_load=False)


def _check_threads(threads: int | None) -> None:
    is_number = isinstance(threads, int) and not isinstance(threads, bool)
    if threads is not None and not (is_number and 0 < threads <= MOST_THREADS):
        raise ConfigError(
            f"threads is {threads!r}",
            remedy=f"Use a number from 1 to {MOST_THREADS}, or None to follow the machine's load",
        )
