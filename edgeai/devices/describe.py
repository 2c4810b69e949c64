"""A machine in words, line by line."""

from collections.abc import Iterator

from edgeai.devices.accelerators import Accelerator
from edgeai.devices.cpu import Cpu
from edgeai.devices.memory import Memory, Pressure
from edgeai.devices.power import Power
from edgeai.devices.probe import Machine
from edgeai.engines import Step


def lines(machine: Machine) -> Iterator[tuple[str, str]]:
    """A name and a text for each thing; what is not known is left out, and no text names user or host."""
    if machine.board.name or machine.board.form:
        yield "board", ", ".join(part for part in (machine.board.name, machine.board.form) if part)
    yield "processor", processor(machine.processor)
    yield "memory", memory(machine.memory)
    for device in machine.accelerators:
        yield device.kind, accelerator(device)
    if not machine.accelerators:
        yield "accelerators", "no GPU or NPU found"
    if text := power(machine.power):
        yield "power", text
    if text := pressure(machine.pressure):
        yield "load", text


def processor(cpu: Cpu) -> str:
    """Name, cores by kind, and what limits their use."""
    kinds = f", {cpu.performance} fast and {cpu.efficiency} efficient" if cpu.efficiency else ""
    threads = f", {cpu.threads} threads" if cpu.smt else ""
    quota = f", quota of {cpu.quota:g} cores" if cpu.quota is not None else ""
    isa = f"; {' '.join(cpu.isa)}" if cpu.isa else ""
    total = cpu.cores or cpu.usable
    return f"{cpu.name}, {cpu.arch}, {cpu.usable} of {total} cores usable{kinds}{threads}{quota}{isa}"


def memory(found: Memory) -> str:
    """In 10⁹ bytes."""
    limit = ", a control group's limit" if found.limit is not None else ""
    return f"{found.available / 1e9:.1f} of {found.total / 1e9:.1f} GB available{limit}"


def accelerator(device: Accelerator) -> str:
    """What it is, and what it lacks."""
    name = " ".join(part for part in (device.vendor, device.name) if part) or "unknown"
    id_ = f" [{device.id}]" if device.id else ""
    driver = f", driver {device.driver}" if device.driver else ""
    return f"{name}{id_}{driver}: {device.state}"


def power(found: Power) -> str:
    """Where the power comes from, and heat."""
    parts = []
    if found.has_battery is not None:
        charge = "" if found.charge is None else f", {found.charge:.0%}"
        draw = "" if found.draw_w is None else f", drawing {found.draw_w:.1f} W"
        source = "on battery" if found.on_battery else "plugged in"
        parts.append(f"{source}{charge}{draw}" if found.has_battery else "no battery")
    if found.hottest_c is not None:
        limit = "" if found.limit_c is None else f" of {found.limit_c:.0f}"
        parts.append(f"{found.hottest_c:.0f}{limit} °C")
    return ", ".join(parts)


def pressure(found: Pressure) -> str:
    """How often tasks had to wait in the last ten seconds."""
    shares = {"processor": found.cpu, "memory": found.memory, "disk": found.io}
    known = [f"{name} {share:.0%}" for name, share in shares.items() if share is not None]
    return f"tasks waited for: {', '.join(known)}" if known else ""


def step_in_words(step: Step) -> str:
    """A kind of work and what does it, or what does not and why."""
    shared = "" if step.layers is None else f", {step.layers[0]} of {step.layers[1]} layers"
    named = f"{step.provider}{shared}"
    return f"{step.work}: {named}" if step.why is None else f"{step.work}: not {named}: {step.why}"
