"""What `edgeai tune` found out for one model on this machine: kept in the data folder, used by every load.

A tuning belongs to the processor, its cores and memory, the engine's version and the model's weights; when
one of them changes it is not used. What is incomplete is not used either: an interrupted run goes on there.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from edgeai.engines import DevicePlan
from edgeai.errors import DiskFull
from edgeai.paths import data_dir

if TYPE_CHECKING:
    from edgeai.models.store import InstalledModel

__all__ = ["Choice", "Tuning", "Value", "circumstances", "forget", "kept", "recall", "remember"]

Value: TypeAlias = int | str

_PACKAGES: Final = {"llamacpp": "llama-cpp-python", "onnx": "onnxruntime"}


def _is_count(value: object) -> bool:
    return type(value) is int and 0 < value < 2**16


# The fields of a plan that may be tuned, and what they may be.
_FITS: Final[Mapping[str, Callable[[object], bool]]] = {
    "n_threads": _is_count,
    "n_ubatch": _is_count,
    "flash_attn": lambda value: type(value) is bool,
    "kv_type": lambda value: value in ("f16", "q8_0"),
    "spin_us": lambda value: value == 0 or _is_count(value),
    "prepack": lambda value: type(value) is bool,
    "provider": lambda value: isinstance(value, str),
}
_LOSSY: Final = "kv_type"
_PROVIDER: Final = "provider"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One setting of a plan, and the seconds of a typical query with each value that was tried.

    Nothing was tried where there is one value only.
    """

    name: str
    value: Value
    query_s: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """The choices for one model, in the order in which they were made. ``complete``: none is missing."""

    model: str
    circumstances: Mapping[str, str]
    choices: tuple[Choice, ...] = ()
    complete: bool = False

    def apply(self, plan: DevicePlan, *, exact: bool = False) -> DevicePlan:
        """The plan with these settings; ``exact``: without those that change what the model computes."""
        left_out = (_PROVIDER, _LOSSY) if exact else (_PROVIDER,)
        known = {choice.name: choice.value for choice in self.choices if choice.name not in left_out}
        return replace(plan, **known)  # type: ignore[arg-type]  # `_choice` has checked names and types

    @property
    def provider(self) -> str | None:
        """The fastest for a query's tokens, None if none was measured; `edgeai.devices.placing` uses it."""
        measured = (choice for choice in self.choices if choice.name == _PROVIDER and choice.query_s)
        return next((str(choice.value) for choice in measured), None)

    def with_choice(self, choice: Choice) -> "Tuning":
        """This choice made, too, or anew."""
        others = tuple(known for known in self.choices if known.name != choice.name)
        return replace(self, choices=(*others, choice))


def circumstances(model: "InstalledModel") -> dict[str, str]:
    """What a tuning depends on; a few milliseconds."""
    from edgeai.devices.probe import engine_versions, probe

    machine = probe()
    package = _PACKAGES.get(model.manifest.engine, "")
    return {
        "cpu": machine.cpu,
        "cores": str(machine.usable_cores),
        "devices": "; ".join(f"{d.kind} {d.id or d.name} {d.driver}" for d in machine.accelerators),
        "memory_gib": str(round(machine.memory_bytes / 2**30)),
        "engine": f"{package} {engine_versions().get(package)}",
        "weights": model.manifest.weights.sha256 or "",
    }


def recall(model: "InstalledModel", *, drafts: bool = False) -> Tuning | None:
    """What was found for this model under today's circumstances; with ``drafts`` also what is incomplete."""
    path = _path(model.id)
    if not path.exists():
        return None
    found = _read(path)
    fits = found is not None and found.circumstances == circumstances(model)
    return found if found is not None and fits and (found.complete or drafts) else None


def kept() -> tuple[Tuning, ...]:
    """All tunings of this machine's data folder, also those that no longer fit."""
    found = (_read(path) for path in sorted(_folder().glob("*.json")))
    return tuple(tuning for tuning in found if tuning is not None)


def remember(tuning: Tuning) -> None:
    """Keep it, whole or not at all. Raises DiskFull."""
    path = _path(tuning.model)
    draft = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(asdict(tuning), indent=1), "utf-8")
        os.replace(draft, path)
    except OSError as error:
        raise DiskFull(
            f"The tuning cannot be written to {path}",
            why=str(error),
            remedy="Make room, or set EDGEAI_HOME to another folder",
        ) from error


def forget(model: str) -> bool:
    """Delete what was found for the model with this id; whether there was something."""
    with suppress(FileNotFoundError):
        _path(model).unlink()
        return True
    return False


def _folder() -> Path:
    return data_dir() / "tuning"


def _path(model: str) -> Path:
    return _folder() / f"{hashlib.sha256(model.encode()).hexdigest()[:32]}.json"


def _read(path: Path) -> Tuning | None:
    """None for a file that says nothing we know: it is measured again."""
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        raw = json.loads(path.read_text("utf-8"))
        choices = tuple(_choice(**choice) for choice in raw["choices"])
        return Tuning(
            model=str(raw["model"]),
            circumstances=dict(raw["circumstances"]),
            choices=choices,
            complete=raw["complete"] is True,
        )
    return None


def _choice(name: str, value: Value, query_s: Mapping[str, float]) -> Choice:
    if not _FITS[name](value):
        raise ValueError(name)
    return Choice(name=name, value=value, query_s=query_s)
