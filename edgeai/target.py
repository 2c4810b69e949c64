"""From a device profile to the figures that a converter works for."""

from edgeai.converters.device import Device
from edgeai.devices.probe import Machine, probe
from edgeai.devices.profiles import Profile, choose
from edgeai.devices.providers import PROVIDERS

__all__ = ["device_for"]


def device_for(name: str = "this") -> Device:
    """The device of a profile's name; ``this`` is this machine, with the profile that fits it.

    Raises ConfigError for a profile that is not known.
    """
    machine, here = probe(), name == "this"
    profile = choose("auto" if here else name, machine)
    wanted = profile.targets.tpot_ms
    return Device(
        name=name,
        memory=_memory(profile, machine, here=here),
        pace=None if wanted is None else 1e3 / wanted.value,
        here=here,
        npu=not here and _has_npu(profile),
    )


def _memory(profile: Profile, machine: Machine, *, here: bool) -> int | None:
    """What a model may take of the device's memory, in bytes."""
    least = [rules.memory_gb[0] * 1e9 for rules in profile.match if rules.memory_gb is not None]
    least = least if profile.memory.total_mb is None else [profile.memory.total_mb.value * 1e6]
    if not here and not least:
        return None
    total = machine.memory_bytes if here else min(least)
    return int(total * profile.memory.model_share.value)


def _has_npu(profile: Profile) -> bool:
    named = {name for works in profile.providers.values() for names in works.values() for name in names}
    return any(PROVIDERS[name].kind == "npu" for name in named if name in PROVIDERS)
