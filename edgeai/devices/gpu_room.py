"""How many of a model's layers the memory of GPUs holds, before anything is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgeai.devices.footprint import needs
from edgeai.engines import DevicePlan

if TYPE_CHECKING:
    from edgeai.devices.probe import Machine
    from edgeai.engines.llamacpp.devices import Device
    from edgeai.models.shelf import InstalledModel

__all__ = ["Room", "room_on"]

LEFT_FREE: Final = 0.05
"""Of a device's free memory: drivers want some for themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How many of a model's layers fit on devices, and ``why`` not all."""

    layers: int
    total: int
    why: str | None = None

    @property
    def part(self) -> int | None:
        """As a plan says it: None for all."""
        return None if self.layers == self.total else self.layers


def room_on(gpus: "Sequence[Device]", model: "InstalledModel", plan: DevicePlan, machine: "Machine") -> Room:
    """Layers with their keys and values; all of them where a driver does not say what is free.

    What integrated GPUs call theirs is the machine's memory, of which there may be less. The output alone is
    not worth the way.
    """
    found = needs(model)
    if not all(gpu.free_bytes for gpu in gpus):
        return Room(layers=found.layers, total=found.layers)
    free = sum(gpu.free_bytes for gpu in gpus) * (1 - LEFT_FREE)
    if all(gpu.shared for gpu in gpus):
        free = min(free, machine.memory.available)

    def bytes_of(layers: int) -> int:
        return found.on_gpu(layers, plan.n_ctx, plan.kv_type, parallel=plan.parallel)

    fits = max((n for n in range(2, found.layers + 1) if bytes_of(n) <= free), default=0)
    if fits == found.layers:
        return Room(layers=fits, total=fits)
    named, needed = ", ".join(gpu.name for gpu in gpus), bytes_of(found.layers)
    why = f"{needed / 1e6:,.0f} MB are needed, {free / 1e6:,.0f} MB are free on {named}"
    return Room(layers=fits, total=found.layers, why=why)
