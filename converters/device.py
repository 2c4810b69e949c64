"""What a package is made for, in figures: how much memory it may take, and how fast it should be."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeai.converters.formats import NpuQuant
from edgeai.converters.points import ABOUT

if TYPE_CHECKING:
    from edgeai.converters.gates import Gates
    from edgeai.converters.proof import Proof

__all__ = ["Device", "keeps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device by its figures, of which None is not known and not checked.

    ``memory`` is how many bytes a model may take while it runs, ``pace`` how many tokens a second it should
    decode. ``here``: it is this machine, so that measured speeds are its own. ``npu``: ONNX packages get a
    graph for it. `edgeai.target.device_for` makes one of a profile.
    """

    name: str = "this"
    memory: int | None = None
    pace: float | None = None
    here: bool = True
    npu: bool = False

    def bounds(self, gates: "Gates") -> "Gates":
        """The gates with the device's memory, where they have no other."""
        return gates if gates.max_memory is not None else replace(gates, max_memory=self.memory)

    def graph(self) -> NpuQuant | None:
        """The graph for NPUs that ONNX packages for it get."""
        return "a16w8" if self.npu else None

    def unchecked(self, gates: "Gates") -> tuple[str, ...]:
        """What of the device nobody can keep to, in sentences."""
        words = []
        if not self.here and self.bounds(gates).max_memory is None:
            missing = "does not say how much memory there is, so none is checked; --max-memory would be"
            words.append(f"The profile {self.name} {missing}")
        if not self.here and self.pace is not None:
            wish = f"The profile {self.name} wants {self.pace:.0f} tokens a second"
            words.append(f"{wish}, which is not checked: only this machine's speed can be measured here")
        return tuple(words)

    def too_slow(self, proofs: "Sequence[Proof]") -> bool:
        """Whether it is known that none of the packages keeps its pace."""
        return self.here and self.pace is not None and not any(keeps(p, self.pace) for p in proofs)


def keeps(proof: "Proof", pace: float) -> bool:
    """Whether it decodes about so many tokens a second; what was not measured alone may well do so."""
    speed = proof.speed
    return speed is None or speed.disturbed or speed.pace >= ABOUT * pace
