"""What a contract promises, as text and as a value.

    promise := name relation bound "@" confidence
    name    := "error" | "kept-error" | "overall-error" | "quality" | "disagreement"
    bound, confidence := a number between 0 and 1, or a percentage ("5%")

    error<=0.05@0.95          of the answers kept on the device at most 5 % are wrong (or: "kept-error")
    overall-error<=0.02@0.95  at most 2 % of all queries are kept and wrong
    quality>=0.95@0.9         device and cloud together are at least 0.95 times as good as the cloud alone
    disagreement<=0.1@0.9     of the kept answers at most 10 % differ from the cloud's; needs no labels

The number behind "@" is the confidence 1 − δ: in how many of all calibrations the promise is kept.
"""

import re
from dataclasses import dataclass
from typing import Literal

from edgeai.errors import ConfigError

__all__ = ["Kind", "Promise"]

Kind = Literal["overall-error", "error", "quality", "disagreement"]
_RELATION: dict[str, str] = {"overall-error": "<=", "error": "<=", "quality": ">=", "disagreement": "<="}
_SHAPE = re.compile(r"\s*([a-z-]+)\s*(<=|>=|≤|≥)\s*([0-9.]+%?)\s*@\s*([0-9.]+%?)\s*")
_FORM = 'A promise reads "error<=0.05@0.95"; the names are error, overall-error, quality, disagreement'


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """One promise. ``bound`` is ε, α or ρ; ``confidence`` is 1 − δ. Raises ConfigError out of range."""

    kind: Kind
    bound: float
    confidence: float

    def __post_init__(self) -> None:
        if self.kind not in _RELATION:
            raise ConfigError(f"{self.kind!r} is not a promise that can be made", remedy=_FORM)
        if not 0 < self.bound < 1:
            raise ConfigError(
                f"The bound of a promise is {self.bound:g}, expected more than 0 and less than 1"
            )
        if not 0.5 <= self.confidence < 1:
            raise ConfigError(
                f"The confidence of a promise is {self.confidence:g}, expected at least 0.5 and less than 1"
            )

    @classmethod
    def parse(cls, text: str) -> "Promise":
        """Read a promise. Raises ConfigError that shows the form."""
        match = _SHAPE.fullmatch(text)
        if match is None:
            raise ConfigError(f"{text!r} is not a promise", remedy=_FORM)
        name, relation, bound, confidence = match.groups()
        name = "error" if name == "kept-error" else name
        relation = {"≤": "<=", "≥": ">="}.get(relation, relation)
        if _RELATION.get(name, relation) != relation:
            raise ConfigError(
                f"{text!r} has the wrong direction", why=f"{name} is promised with {_RELATION[name]}"
            )
        return cls(kind=name, bound=_number(bound), confidence=_number(confidence))  # type: ignore[arg-type]  # checked in __post_init__

    @property
    def delta(self) -> float:
        """The probability with which the calibration may be misled."""
        return round(1 - self.confidence, 12)

    def __str__(self) -> str:
        return f"{self.kind}{_RELATION[self.kind]}{self.bound:g}@{self.confidence:g}"

    def in_words(self) -> str:
        """The promise as a sentence without its full stop."""
        share, sure = f"{self.bound:.3g}", f"with {self.confidence:.4g} confidence"
        return {
            "error": f"of the answers kept on the device a share of at most {share} is wrong, {sure}",
            "overall-error": f"of all queries a share of at most {share} is kept and wrong, {sure}",
            "quality": f"the answers are at least {share} times as good as the cloud's alone, {sure}",
            "disagreement": f"of the kept answers a share of at most {share} differs from the cloud, {sure}",
        }[self.kind]


def _number(text: str) -> float:
    try:
        return round(float(text[:-1]) / 100, 12) if text.endswith("%") else float(text)
    except ValueError as error:
        raise ConfigError(f"{text!r} is not a number", remedy=_FORM) from error
