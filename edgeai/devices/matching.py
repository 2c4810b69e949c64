"""Which machines a profile is for: its rules, and the verdict on each."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Final

from edgeai.devices.probe import Machine, Os

# What says most about a machine counts most.
WEIGHTS: Final[Mapping[str, int]] = {
    "board": 16,
    "npu": 8,
    "cpu": 8,
    "gpu": 4,
    "memory_gb": 2,
    "form": 2,
    "battery": 2,
    "arch": 1,
    "os": 1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """All rules that are given must hold. Texts are regular expressions, found anywhere, in any case.

    ``board``: the product's name and its devicetree names. ``cpu``: the processor's name. ``npu``, ``gpu``:
    vendor, driver, name and ``vendor:device`` of one that is there. ``memory_gb``: from and to, in 10⁹ bytes.
    """

    board: str | None = None
    cpu: str | None = None
    npu: str | None = None
    gpu: str | None = None
    memory_gb: tuple[float, float] | None = None
    form: tuple[str, ...] | None = None
    battery: bool | None = None
    arch: str | None = None
    os: Os | None = None

    @property
    def weight(self) -> int:
        """How much is asked for."""
        return sum(WEIGHTS[rule.name] for rule in fields(self) if getattr(self, rule.name) is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One rule, what it wants and what was found, as texts for people."""

    rule: str
    wanted: str
    found: str
    passed: bool


def judge(rules: Match, machine: Machine) -> tuple[Verdict, ...]:
    """The verdict on each rule that is given."""
    given = {rule.name: getattr(rules, rule.name) for rule in fields(rules)}
    return tuple(_JUDGES[name](name, wanted, machine) for name, wanted in given.items() if wanted is not None)


def _pattern(found: Callable[[Machine], list[str]]) -> Callable[[str, str, Machine], Verdict]:
    def decide(rule: str, wanted: str, machine: Machine) -> Verdict:
        texts = [text for text in found(machine) if text]
        passed = any(re.search(wanted, text, re.IGNORECASE) for text in texts)
        return Verdict(rule=rule, wanted=wanted, found=", ".join(texts) or "none", passed=passed)

    return decide


def _accelerators(kind: str) -> Callable[[Machine], list[str]]:
    def found(machine: Machine) -> list[str]:
        return [
            " ".join(part for part in (device.vendor, device.driver, device.name, device.id) if part)
            for device in machine.accelerators
            if device.kind == kind
        ]

    return found


def _memory(rule: str, wanted: tuple[float, float], machine: Machine) -> Verdict:
    low, high = wanted
    found = machine.memory.total / 1e9
    return Verdict(
        rule=rule, wanted=f"{low:g} to {high:g}", found=f"{found:.1f}", passed=low <= found <= high
    )


def _form(rule: str, wanted: tuple[str, ...], machine: Machine) -> Verdict:
    found = machine.board.form
    return Verdict(rule=rule, wanted=" or ".join(wanted), found=found or "unknown", passed=found in wanted)


def _battery(rule: str, wanted: bool, machine: Machine) -> Verdict:  # noqa: FBT001  # called by the table
    found = machine.power.has_battery
    words = {True: "yes", False: "no", None: "unknown"}
    return Verdict(rule=rule, wanted=words[wanted], found=words[found], passed=found is wanted)


_JUDGES: Final[Mapping[str, Callable[..., Verdict]]] = {
    "board": _pattern(lambda machine: [machine.board.name or "", *machine.board.compatible]),
    "cpu": _pattern(lambda machine: [machine.cpu]),
    "npu": _pattern(_accelerators("npu")),
    "gpu": _pattern(_accelerators("gpu")),
    "memory_gb": _memory,
    "form": _form,
    "battery": _battery,
    "arch": _pattern(lambda machine: [machine.processor.arch]),
    "os": _pattern(lambda machine: [machine.os]),
}
