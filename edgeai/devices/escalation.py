"""What the profile says of leaving and of threads, in the state the machine is in now: on battery, or hot."""

import time
from collections.abc import Callable
from typing import Final

from edgeai.devices.plan import frugal
from edgeai.devices.power import Power
from edgeai.devices.probe import power_now
from edgeai.devices.profiles import Frugality, Goal, Profile
from edgeai.types import Escalation

__all__ = ["escalation", "watch"]

_KNOWN_S: Final = 5.0
_ALL: Final = 2**16


def escalation(profile: Profile, power: Power, goal: Goal = "speed") -> Escalation:
    """Of a policy for heat and one for the battery that both apply, heat's counts if it says anything."""
    said = (policy.escalation for policy in frugal(profile, power, goal) if policy.escalation != "usual")
    return next(said, "usual")


def watch(
    profile: Profile,
    goal: Goal = "speed",
    *,
    limit: Callable[[int], None] = lambda n_threads: None,
    read: Callable[[], Power] = power_now,
    clock: Callable[[], float] = time.monotonic,
) -> Callable[[], Escalation]:
    """What tells it, looking at most every five seconds, and never for a profile that says nothing of it.

    At each look ``limit`` is told how many threads may compute, as far as that depends on the state.
    """
    if {profile.power.hot, profile.power.low, profile.power.battery} == {Frugality()}:
        return lambda: "usual"
    known: list[tuple[float, Escalation]] = []

    def now() -> Escalation:
        if not known or clock() - known[-1][0] >= _KNOWN_S:
            power = read()
            caps = (policy.threads for policy in frugal(profile, power, goal))
            limit(min((int(cap.value) for cap in caps if cap is not None), default=_ALL))
            known[:] = [(clock(), escalation(profile, power, goal))]
        return known[-1][1]

    return now
