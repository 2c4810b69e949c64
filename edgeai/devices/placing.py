"""Where a model's work runs: on the device that was wished, or the one that `edgeai tune` found fastest."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgeai.devices import gpus, variants
from edgeai.devices.plan import saves_battery
from edgeai.devices.profiles import Goal, Profile
from edgeai.devices.wish import Wish
from edgeai.engines import DevicePlan

if TYPE_CHECKING:
    from edgeai.devices.probe import Machine
    from edgeai.models.shelf import InstalledModel

__all__ = ["choices", "place"]


def place(
    model: "InstalledModel", plan: DevicePlan, wish: Wish, profile: Profile, goal: Goal, machine: "Machine"
) -> DevicePlan:
    """The plan, with what runs where; on battery as with that goal. Raises DeviceUnavailable, ConfigError."""
    goal = "battery" if saves_battery(machine, goal) else goal
    if model.manifest.engine == "llamacpp":
        placed = gpus.place(model, plan, wish, profile, goal, machine)
    else:
        placed = variants.place(model, wish, profile, goal, machine)
    return placed.on(plan)


def choices(
    model: "InstalledModel",
    plan: DevicePlan,
    profile: Profile,
    machine: "Machine",
    tell: Callable[[str], None] = lambda name: None,
) -> Mapping[str, Mapping[str, Any]]:
    """By name each provider that works for a query's tokens, and the fields of the plan that it means.

    The processor is the first. The others are tried now, each in a process of its own, if they were not;
    ``tell`` is called with the name of each before.
    """
    names = {*gpus.available(), *variants.available(model)}
    found = {"cpu": _fields(plan)}
    for name in sorted(names):
        tell(name)
        put = place(model, plan, Wish(name=name, allow_fallback=True), profile, "speed", machine)
        if put.gpus or any(offload.work in ("prefill", "decode") for offload in put.offloads):
            # it is measured there, or is no choice
            offloads = tuple(replace(offload, required=True) for offload in put.offloads)
            found[name] = _fields(put) | {"gpu_optional": False, "offloads": offloads}
    return found


def _fields(plan: DevicePlan) -> dict[str, Any]:
    names = ("provider", "gpus", "gpu_layers", "gpu_shared", "gpu_optional", "offloads", "steps")
    return {name: getattr(plan, name) for name in names}
