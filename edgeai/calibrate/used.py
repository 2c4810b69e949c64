"""Which labels a model's calibrations have used up.

The proof of a contract holds for labels that nothing was chosen by. Trying again on the same labels, with
another promise, another limit or another score, until one passes, would be fishing. So every test notes the
hashes of its prompts here; in later calibrations of the same model these serve for training only.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from edgeai.calibrate.work import folder
from edgeai.errors import ConfigError
from edgeai.monitor.codec import dumps
from edgeai.monitor.contract import Binding
from edgeai.monitor.examples import Example, Split
from edgeai.monitor.promise import Promise

__all__ = ["Attempt", "fresh", "mark"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One test on calibration labels: the same attempt may be repeated, for it gives the same result."""

    binding: Binding
    promise: Promise
    settings: str
    examples: tuple[Example, ...]

    @property
    def identity(self) -> str:
        """The hash of everything that decides the result; times and texts are not among it."""
        labels = [[e.key, e.right, e.cloud, e.agrees] for e in self.examples]
        return hashlib.sha256(
            dumps([asdict(self.binding), str(self.promise), self.settings, sorted(labels, key=str)]).encode()
        ).hexdigest()


def fresh(attempt: Attempt, parts: Split) -> tuple[Split, int]:
    """The parts with labels that another attempt has used moved to training, and how many those are."""
    used = {
        key
        for identity, keys in _attempts(_path(attempt.binding)).items()
        if identity != attempt.identity
        for key in keys
    }
    spent = tuple(example for example in parts.calibration if example.key in used)
    if not spent:
        return parts, 0
    moved = Split(
        train=tuple(sorted((*parts.train, *spent), key=lambda example: example.key)),
        calibration=tuple(example for example in parts.calibration if example.key not in used),
        duplicates=parts.duplicates,
    )
    return moved, len(spent)


def mark(attempt: Attempt, keys: Sequence[str]) -> None:
    """Note that a test is about to look at these labels. Raises ConfigError when that cannot be written."""
    path = _path(attempt.binding)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            table = _attempts(path) | {attempt.identity: sorted(keys)}
            draft = path.with_suffix(".new")
            draft.write_text(dumps(table), "utf-8")
            draft.replace(path)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written", why=error.strerror, remedy="Free the disk, or set EDGEAI_HOME"
        ) from error


def _path(binding: Binding) -> Path:
    return folder() / f"{binding.weights[:32]}.used.json"


def _attempts(path: Path) -> dict[str, list[str]]:
    """The keys that each attempt used, by its identity."""
    try:
        table = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(table, dict) or not all(
        isinstance(keys, list) and all(isinstance(key, str) for key in keys) for keys in table.values()
    ):
        raise _damaged(path, "it is not what edgeai writes")
    return table


def _damaged(path: Path, why: str) -> ConfigError:
    return ConfigError(
        f"{path} cannot be read", why=why,
        remedy="Restore it: without it nobody knows which calibration labels were used before",
    )  # fmt: skip
