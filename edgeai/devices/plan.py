"""The plan an engine gets: how many threads, how long a context, and how keys and values are stored."""

from dataclasses import replace
from typing import get_args

from edgeai.devices.power import Power
from edgeai.devices.probe import Machine, fast_cores
from edgeai.devices.profiles import Frugality, Goal, Profile
from edgeai.devices.tuning import Tuning
from edgeai.engines import DevicePlan
from edgeai.errors import ConfigError

# Enough for a chat, and its KV cache stays small; a model may be trained for 100 times as much.
DEFAULT_N_CTX = 4096
# More are a slip of the finger, and the engines would make them all.
MOST_THREADS = 512


MOST_PARALLEL = 64
"""Queries at once: each has a row of logits in every batch."""


def plan(
    n_ctx: int | None,
    n_ctx_train: int,
    *,
    threads: int | None = None,
    parallel: int | None = None,
    speculate: bool = True,
    tuning: Tuning | None = None,
    exact: bool = False,
    verbose: bool = False,
    profile: Profile | None = None,
    machine: Machine | None = None,
    goal: Goal = "speed",
) -> DevicePlan:
    """Decide for this machine. ``n_ctx`` in tokens; None means what the model was trained for, up to what
    the profile says, or 4096.

    ``threads`` compute, at all times; None means one a fast core, at most what the profile says for this
    machine's state and the goal, and fewer while others use the cores. ``tuning`` is what was measured here;
    ``exact`` leaves out of it what would change answers. ``parallel`` queries are answered at once; None: as
    many as the engine does best.
    Raises ConfigError when more is asked for than the model was trained for, or for a number that cannot be.
    """
    _check_threads(threads)
    if parallel is not None and not (isinstance(parallel, int) and 0 < parallel <= MOST_PARALLEL):
        raise ConfigError(f"parallel is {parallel!r}", remedy=f"Use a number from 1 to {MOST_PARALLEL}")
    if goal not in get_args(Goal):
        raise ConfigError(f"goal is {goal!r}", remedy=f"Use one of {', '.join(get_args(Goal))}")
    if n_ctx is not None and not (isinstance(n_ctx, int) and 0 < n_ctx <= n_ctx_train):
        raise ConfigError(
            f"n_ctx is {n_ctx!r}",
            why=f"The model was trained for contexts of 1 to {n_ctx_train} tokens",
            remedy=f"Use at most {n_ctx_train}",
        )
    chat = None if profile is None else profile.models["chat"]
    most = most_threads(profile, machine, goal)
    settings = {} if profile is None else profile.settings.given()
    usual = DevicePlan(
        n_ctx=n_ctx or min(n_ctx_train, DEFAULT_N_CTX if chat is None else int(chat.n_ctx.value)),
        n_threads=most,
        verbose=verbose,
        parallel=parallel or settings.get("parallel"),
        speculate=speculate,
        n_ubatch=settings.get("n_ubatch"),
        flash_attn=settings.get("flash_attn"),
        spin_us=settings.get("spin_us"),
        prepack=settings.get("prepack", True),
        kv_type="f16" if chat is None else chat.kv_type,
    )
    tuned = usual if tuning is None else tuning.apply(usual, exact=exact)
    if threads is not None:
        return replace(tuned, n_threads=threads, follow_load=False)
    return replace(tuned, n_threads=min(tuned.n_threads, most))


def most_threads(profile: Profile | None, machine: Machine | None, goal: Goal) -> int:
    """One a fast core, within what the profile allows in the machine's state."""
    caps = [] if profile is None else [profile.threads]
    if profile is not None and machine is not None:
        caps += [policy.threads for policy in frugal(profile, machine.power, goal)]
    cores = fast_cores() if machine is None else machine.processor.fast
    return max(1, min([cores, *(int(cap.value) for cap in caps if cap is not None)]))


def frugal(profile: Profile, power: Power, goal: Goal) -> list[Frugality]:
    """What of the profile's policies applies in this state: heat's first, then an empty battery's."""
    found = [profile.power.hot] if too_hot(profile, power) else []
    if power.on_battery and _is_low(profile, power):
        found.append(profile.power.low)
    return [*found, profile.power.battery] if goal == "battery" or power.on_battery is True else found


def _is_low(profile: Profile, power: Power) -> bool:
    least = profile.power.low_charge
    return least is not None and power.charge is not None and power.charge <= least.value


def saves_battery(machine: Machine, goal: Goal) -> bool:
    """Whether the profile's policy for batteries applies: on battery, or when that is the goal."""
    return goal == "battery" or machine.power.on_battery is True


def is_hot(profile: Profile, machine: Machine) -> bool:
    """Whether the processor has reached the profile's limit, or that which the system names."""
    return too_hot(profile, machine.power)


def too_hot(profile: Profile, power: Power) -> bool:
    """As `is_hot`, from what the sensors say, or the system itself."""
    if power.throttled:
        return True
    named = profile.power.hot_c
    limit = power.limit_c if named is None else named.value
    return power.hottest_c is not None and limit is not None and power.hottest_c >= limit


def _check_threads(threads: int | None) -> None:
    is_number = isinstance(threads, int) and not isinstance(threads, bool)
    if threads is not None and not (is_number and 0 < threads <= MOST_THREADS):
        raise ConfigError(
            f"threads is {threads!r}",
            remedy=f"Use a number from 1 to {MOST_THREADS}, or None to follow the machine's load",
        )
