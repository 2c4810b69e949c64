"""The device that was asked for: a kind, a provider, or what suits this machine; and what became of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Final, Literal

from edgeai.devices.profiles import Goal, Profile
from edgeai.engines import DevicePlan, Offload, Step, Work
from edgeai.errors import ConfigError, DeviceUnavailable

__all__ = ["KINDS", "Kind", "Placed", "Wish", "order", "read_wish", "unavailable"]

Kind = Literal["cpu", "gpu", "npu"]
KINDS: Final = ("auto", "cpu", "gpu", "npu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """``name`` is one of `KINDS` or a provider, ``part`` what the provider calls one of its devices.

    With ``allow_fallback`` the processor will do, too. ``tuned`` is the provider that was measured to be the
    fastest for a query's tokens: where nothing in particular is asked for, it comes before the profile's.
    """

    name: str = "auto"
    part: str | None = None
    allow_fallback: bool = False
    tuned: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether nothing in particular was asked for."""
        return self.name == "auto"

    def __str__(self) -> str:
        return self.name if self.part is None else f"{self.name}:{self.part}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Where the work runs: ``provider`` decodes, on ``gpus`` if it is one of llama.cpp's, as of a plan.

    ``steps`` are all that were considered.
    """

    provider: str = "cpu"
    gpus: tuple[str, ...] = ()
    gpu_layers: int | None = None
    gpu_shared: bool = False
    offloads: tuple[Offload, ...] = ()
    steps: tuple[Step, ...] = ()

    def on(self, plan: DevicePlan) -> DevicePlan:
        """The plan with this."""
        return replace(
            plan,
            provider=self.provider,
            gpus=self.gpus,
            gpu_layers=self.gpu_layers,
            gpu_shared=self.gpu_shared,
            offloads=self.offloads,
            steps=self.steps,
        )


def read_wish(device: str, known: Sequence[str], *, allow_fallback: bool) -> Wish:
    """The keyword ``device``: a kind, or one of the ``known`` providers, with ":" one of its devices.

    Raises ConfigError for what is neither.
    """
    name, _, part = device.partition(":") if isinstance(device, str) else ("", "", "")
    names = [*KINDS, *(name for name in known if name not in KINDS)]
    if name not in names or (name in KINDS and part):
        near = get_close_matches(name, names, n=1)
        remedy = f"Did you mean {near[0]!r}?" if near else f"Use one of {', '.join(names)}"
        raise ConfigError(f"device is {device!r}", remedy=remedy)
    return Wish(name=name, part=part or None, allow_fallback=allow_fallback)


def order(wish: Wish, kinds: Mapping[str, Kind], profile: Profile, goal: Goal, work: Work) -> list[str]:
    """The providers worth considering for the work, of an engine that has these ``kinds``.

    The profile's order counts; what was asked for may also be what it does not name.
    """
    listed = profile.providers.get(goal, {})
    named = [name for name in listed.get("embed" if work == "classify" else work, ()) if name in kinds]
    if wish.is_open:
        if wish.tuned is not None and work in ("prefill", "decode"):
            named = [wish.tuned, *named]
        return list(dict.fromkeys(named[: named.index("cpu")] if "cpu" in named else named))
    if wish.name in ("gpu", "npu"):
        usual = [name for name in named if kinds[name] == wish.name]
        return [*usual, *(name for name in kinds if kinds[name] == wish.name and name not in usual)]
    return [wish.name] if wish.name in kinds and wish.name != "cpu" else []


def unavailable(what: str, wish: Wish, steps: Sequence[Step], remedy: str | None) -> DeviceUnavailable:
    """The error that says why, for each provider."""
    providers: dict[str, list[str]] = {}
    for step in steps:
        if step.why and step.provider not in providers.setdefault(step.why, []):
            providers[step.why].append(step.provider)
    return DeviceUnavailable(
        f"{what} cannot run on the device {wish}",
        why="; ".join(f"{', '.join(names)}: {why}" for why, names in providers.items()) or None,
        remedy=f"{remedy or 'Use another device'}; or let the processor do it: allow_fallback=True",
    )
