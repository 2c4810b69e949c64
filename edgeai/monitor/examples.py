"""What is known of one query when it is judged, what became of it, and how the data are divided.

Training and calibration are told apart by the hash of the prompt: the same prompt falls on the same side in
every run, so that nobody can try again with another division until a contract passes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Example", "Observation", "Split", "digest", "prompt_key", "split"]

FeatureMap: TypeAlias = Mapping[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What the device knows of one answer, without any label.

    ``features`` are numbers by name (`Features.snapshot`, `label_features`, `prompt_features`), None where
    unknown. ``categories`` are texts by name: the predicted "label", the "task". ``prefixes`` are the
    features after 1, 4, 8, … tokens. ``words`` are hashed word counts of the prompt. ``hidden`` is one vector
    (`HiddenStates.vector`).
    """

    features: FeatureMap
    categories: Mapping[str, str | None] = field(default_factory=dict)
    prefixes: Mapping[int, FeatureMap] = field(default_factory=dict)
    words: Mapping[int, float] = field(default_factory=dict)
    hidden: "NDArray[np.float32] | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One query of the calibration data with its outcome.

    ``key`` is `prompt_key` of its prompt. ``right`` is the quality of the device's answer, ``cloud`` that of
    the cloud's, both from 0 (wrong) to 1 (right); ``agrees``: both gave the same answer. None: unknown.
    """

    key: str
    seen: Observation
    right: float | None = None
    cloud: float | None = None
    agrees: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The two disjoint parts of the data, in the order of the keys; ``duplicates`` were left out."""

    train: tuple[Example, ...]
    calibration: tuple[Example, ...]
    duplicates: int = 0


def prompt_key(prompt: str) -> str:
    """The hash that identifies a prompt; runs of white space count as one blank."""
    return _sha256(" ".join(prompt.split()))


def split(examples: Iterable[Example], *, calibration: float = 0.5) -> Split:
    """Divide the data by the prompts' hashes; of several examples with one prompt the first remains.

    The order within a part is that of the hashes, which is random with respect to everything else.
    """
    first: dict[str, Example] = {}
    n = 0
    for example in examples:
        n += 1
        first.setdefault(example.key, example)
    ordered = sorted(first.values(), key=lambda example: example.key)
    border = round(calibration * 0xFFFFFFFF)
    later = tuple(example for example in ordered if int(_side(example.key), 16) < border)
    taken = {example.key for example in later}
    return Split(
        train=tuple(example for example in ordered if example.key not in taken),
        calibration=later,
        duplicates=n - len(ordered),
    )


def digest(keys: Sequence[str]) -> str:
    """One hash for a set of prompts, whatever their order."""
    return _sha256("\n".join(sorted(keys)))


def _side(key: str) -> str:
    """Other bits than the sorting uses, so that the order within a part stays random."""
    return _sha256(f"side {key}")[:8]


def _sha256(text: str) -> str:
    import hashlib  # not needed where nothing is calibrated

    return hashlib.sha256(text.encode()).hexdigest()
