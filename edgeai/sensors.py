"""What an Edge asks of the machine while it runs: joules, and whether its state speaks for the cloud."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgeai.engines import Engine, Throttled
from edgeai.types import Escalation

if TYPE_CHECKING:
    from edgeai.devices.energy import Meter
    from edgeai.devices.profiles import Goal

__all__ = ["open_escalation", "open_meter"]


def open_meter(profile: str) -> "Meter | None":
    """What counts this machine's joules, or the profile's estimate; None where there is neither."""
    from edgeai.devices.energy import find_meter
    from edgeai.devices.probe import probe
    from edgeai.devices.profiles import choose

    if (meter := find_meter()) is not None:
        return meter
    watts = choose(profile, probe()).power.active_w
    return find_meter(active_w=None if watts is None else watts.value)


def open_escalation(profile: str, goal: "Goal", engine: Engine) -> Callable[[], Escalation]:
    """What tells whether the machine's state, now, speaks for leaving, and the engine how many threads.

    Raises ConfigError.
    """
    from edgeai.devices.escalation import watch
    from edgeai.devices.probe import probe
    from edgeai.devices.profiles import choose

    chosen = choose(profile, probe())
    if isinstance(engine, Throttled):
        return watch(chosen, goal, limit=engine.limit_threads)
    return watch(chosen, goal)
