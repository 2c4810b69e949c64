"""Profiles of known devices: what is set for a kind of machine before anything was measured on it.

They are TOML files in the package `edgeai.device_profiles`, and in ``device_profiles`` of the configuration
folder, where a file overrides ours of the same name. Every number says where it comes from. `choose` takes
the most specific one whose rules all hold for the machine, and tells why.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

from edgeai.devices.matching import Match, Verdict, judge
from edgeai.devices.probe import Machine
from edgeai.devices.schema import Figure, read
from edgeai.errors import ConfigError
from edgeai.paths import config_dir
from edgeai.types import Escalation

__all__ = ["Goal", "KvType", "Profile", "Setting", "choose", "load_profiles", "ranked"]

Goal = Literal["speed", "battery"]
Work = Literal["prefill", "decode", "embed"]
KvType = Literal["f16", "q8_0"]
Setting = Literal["n_ctx", "kv_type", "quantization"]
FOLDER = "device_profiles"
GENERIC = "generic"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBudget:
    """What one model may take: at most ``model_share`` (0 to 1) of all memory, and ``keep_free_mb`` (10⁶
    bytes) of what is available stay free. ``total_mb`` is what the smallest such device has, for conversions
    on another machine.

    ``adjust`` names the settings that may be made smaller to fit; "quantization": a smaller package of the
    model may be loaded instead, if one is installed.
    """

    model_share: Figure
    keep_free_mb: Figure
    total_mb: Figure | None = None
    adjust: tuple[Setting, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """A model that suits the device in one role, as a catalog or hub name; ``n_ctx`` in tokens."""

    model: str
    quantization: str
    n_ctx: Figure
    kv_type: KvType = "f16"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Fields of `edgeai.engines.DevicePlan` to begin with, where the engine's own are not the best here.

    What `edgeai tune` has measured, and what the caller asks for, comes before them.
    """

    n_ubatch: Figure | None = None
    flash_attn: bool | None = None
    spin_us: Figure | None = None
    prepack: bool | None = None
    parallel: Figure | None = None

    def given(self) -> dict[str, Any]:
        """Those that are set, as plain values."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        plain = {name: int(v.value) if isinstance(v, Figure) else v for name, v in named.items()}
        return {name: value for name, value in plain.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Milliseconds to the first token of a short prompt, per token after it, and for a text's embedding."""

    ttft_ms: Figure | None = None
    tpot_ms: Figure | None = None
    embed_ms: Figure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Frugality:
    """What is used less: ``threads`` at most.

    ``escalation``, as far as the app's policy lets queries leave: "prefer" the cloud, or "keep" on the device
    what only doubt or a hedge would send there.
    """

    threads: Figure | None = None
    escalation: Escalation = "usual"


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerPolicy:
    """``battery`` applies on battery or with ``goal="battery"``, ``hot`` from ``hot_c`` (°C) on.

    ``low`` applies on battery, too, from ``low_charge`` (0 to 1) down.
    ``active_w``: watts of the whole device while it decodes, for estimates where nothing measures.
    """

    battery: Frugality = field(default_factory=Frugality)
    hot: Frugality = field(default_factory=Frugality)
    low: Frugality = field(default_factory=Frugality)
    low_charge: Figure | None = None
    hot_c: Figure | None = None
    active_w: Figure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One kind of device. ``threads``: at most so many decode; None: one a fast core.

    ``match`` holds alternatives, of which one must hold. ``providers``: per goal and kind of work, the
    execution providers in the order in which they are worth trying. ``models``: by role, ``chat`` being the
    default one. ``expected``: what others have measured on such a device, by what it is.
    """

    name: str
    title: str
    memory: MemoryBudget
    models: Mapping[str, ModelChoice]
    match: tuple[Match, ...] = ()
    threads: Figure | None = None
    providers: Mapping[Goal, Mapping[Work, tuple[str, ...]]] = field(default_factory=dict)
    settings: EngineSettings = field(default_factory=EngineSettings)
    targets: Targets = field(default_factory=Targets)
    power: PowerPolicy = field(default_factory=PowerPolicy)
    expected: Mapping[str, Figure] = field(default_factory=dict)
    file: str = ""

    @property
    def specificity(self) -> int:
        """How much its rules ask for: the more, the earlier it is tried."""
        return max((rules.weight for rules in self.match), default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A profile, and what became of its rules: those of the alternative that went furthest."""

    profile: Profile
    matches: bool
    verdicts: tuple[Verdict, ...]


def load_profiles() -> tuple[Profile, ...]:
    """All profiles, the most specific first. Raises ConfigError for a file that is not a sound profile."""
    found = {profile.name: profile for profile in (*_shipped(), *_own(config_dir() / FOLDER))}
    order = sorted(found.values(), key=lambda profile: (-profile.specificity, profile.name))
    return tuple(sorted(order, key=lambda profile: profile.name == GENERIC))


def ranked(machine: Machine) -> tuple[Candidate, ...]:
    """Every profile with the verdicts on its rules, in the order in which they are tried."""
    return tuple(_candidate(profile, machine) for profile in load_profiles())


def choose(name: str, machine: Machine) -> Profile:
    """The profile of this name, with "auto" that of the machine. Raises ConfigError for an unknown name."""
    profiles = load_profiles()
    if name == "auto":
        return next(profile for profile in profiles if _candidate(profile, machine).matches)
    for profile in profiles:
        if profile.name == name:
            return profile
    names = [profile.name for profile in profiles]
    near = get_close_matches(name, names, n=1)
    remedy = f"Did you mean {near[0]!r}?" if near else f"There are: auto, {', '.join(names)}"
    raise ConfigError(f"There is no device profile {name!r}", remedy=remedy)


def _candidate(profile: Profile, machine: Machine) -> Candidate:
    if profile.name == GENERIC:
        return Candidate(profile=profile, matches=True, verdicts=())
    tried = [judge(rules, machine) for rules in profile.match]
    best = max(tried, key=lambda verdicts: sum(v.passed for v in verdicts) / len(verdicts))
    return Candidate(profile=profile, matches=all(v.passed for v in best), verdicts=best)


@cache
def _shipped() -> tuple[Profile, ...]:
    return tuple(_files(resources.files("edgeai.device_profiles")))


def _own(folder: Path) -> tuple[Profile, ...]:
    return tuple(_files(folder)) if folder.is_dir() else ()


def _files(folder: Traversable) -> list[Profile]:
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda f: f.name)
    return [read_profile(file) for file in files]


def read_profile(file: Traversable) -> Profile:
    """The profile in a file. Raises ConfigError, which names the file and the field."""
    try:
        table = tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} is not a device profile", why=str(error), remedy="Correct it") from error
    profile = replace(read(Profile, table, str(file)), file=str(file))
    _check(profile)
    return profile


def _check(profile: Profile) -> None:
    share = profile.memory.model_share.value
    if not 0 < share <= 1:
        raise ConfigError(
            f"{profile.file}, memory, model_share is {share}", why="It must be above 0 and at most 1"
        )
    for name, least in (("n_ubatch", 1), ("spin_us", 0), ("parallel", 1)):
        value = profile.settings.given().get(name, least)
        if not least <= value < 2**16:
            raise ConfigError(
                f"{profile.file}, settings, {name} is {value}", why=f"It must be from {least} on"
            )
    if "chat" not in profile.models:
        raise ConfigError(f"{profile.file}, models has no chat", remedy="Say which model it is")
    if (not profile.match or not all(rules.weight for rules in profile.match)) and profile.name != GENERIC:
        raise ConfigError(f"{profile.file} matches every machine", remedy="Say which machines it is for")
