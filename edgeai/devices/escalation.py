"""What the profile says of leaving, in the state that the machine is in now: on battery, or hot."""

import time
from collections.abc import Callable
from typing import Final

from edgeai.devices.plan import too_hot
from edgeai.devices.power import Power
from edgeai.devices.probe import power_now
from edgeai.devices.profiles import Goal, Profile
from edgeai.types import Escalation

__all__ = ["escalation", "watch"]

_KNOWN_S: Final = 5.0


def escalation(profile: Profile, power: Power, goal: Goal = "speed") -> Escalation:
    """Of a policy for heat and one for the battery that both apply, heat's counts if it says anything."""
    policies = []
    if too_hot(profile, power):
        policies.append(profile.power.hot)
    if goal == "battery" or power.on_battery is True:
        policies.append(profile.power.battery)
    return next((policy.escalation for policy in policies if policy.escalation != "usual"), "usual")


def watch(
    profile: Profile,
    goal: Goal = "speed",
    *,
    read: Callable[[], Power] = power_now,
    clock: Callable[[], float] = time.monotonic,
) -> Callable[[], Escalation]:
    """What tells it, looking at most every five seconds, and never for a profile that says nothing of it."""
    if {profile.power.hot.escalation, profile.power.battery.escalation} == {"usual"}:
        return lambda: "usual"
    known: list[tuple[float, Escalation]] = []

    def now() -> Escalation:
        if not known or clock() - known[-1][0] >= _KNOWN_S:
            known[:] = [(clock(), escalation(profile, read(), goal))]
        return known[-1][1]

    return now
