"""What `edgeai doctor` finds of the machine itself, each by looking or by trying."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from edgeai.config import Settings
    from edgeai.devices.accelerators import Accelerator
    from edgeai.devices.probe import Machine
    from edgeai.devices.providers import Verdict

State = Literal["ok", "note", "problem"]
# What ONNX Runtime needs to reach a device: packages, one of which will do, and how to get one.
PACKAGES = {
    ("npu", "Intel"): (
        ("onnxruntime-openvino", "onnxruntime-ep-openvino"),
        "pip install onnxruntime-openvino, in an environment of its own",
    ),
    ("npu", "Qualcomm"): (("onnxruntime-qnn",), "pip install onnxruntime-qnn"),
    ("npu", "AMD"): (
        ("onnxruntime-vitisai",),
        "Install AMD's Ryzen AI software, whose environment has ONNX Runtime for it",
    ),
}
NO_DRIVER = {
    ("npu", "Intel"): "Load the kernel module intel_vpu (Linux 6.8 or later, with its firmware)",
    ("npu", "AMD"): "Load the kernel module amdxdna (Linux 6.14 or later, with its firmware)",
    ("gpu", "NVIDIA"): "Install NVIDIA's driver",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at; ``remedy`` says what to do where the state is not ok."""

    about: str
    state: State
    found: str
    remedy: str | None = None


def machine_findings(machine: "Machine", profile_name: str) -> Iterator[Finding]:
    """Processor, memory, accelerators, power, the profile, and what measures energy."""
    from edgeai.devices import describe

    yield Finding(about="processor", state="ok", found=describe.processor(machine.processor))
    yield Finding(about="memory", state="ok", found=describe.memory(machine.memory))
    for device in machine.accelerators:
        yield _accelerator(device)
    if not machine.accelerators:
        yield Finding(about="devices", state="ok", found="no GPU or NPU found: models run on the processor")
    if power := describe.power(machine.power):
        yield Finding(about="power", state="ok", found=power)
    if load := describe.pressure(machine.pressure):
        yield Finding(about="load", state="ok", found=load)
    yield _profile(machine, profile_name)
    yield _energy(machine)


def _accelerator(device: "Accelerator") -> Finding:
    """Present, driver, permission, package: the first that is missing."""
    from edgeai.devices.describe import accelerator

    key = (device.kind, device.vendor or "")
    found, remedy = accelerator(device), None
    if device.state == "no driver":
        remedy = NO_DRIVER.get(key, "Install its driver")
    elif device.state == "no permission":
        groups = {"/dev/dri": "render", "/dev/accel": "render", "/dev/nv": "video"}
        named = (group for place, group in groups.items() if (device.node or "").startswith(place))
        group = next(named, "fastrpc")
        remedy = f"Let yourself use it: sudo usermod -aG {group} $USER, then log in again"
    elif key in PACKAGES and not any(map(_has, PACKAGES[key][0])):
        found, remedy = f"{found}, but no package for it is installed", PACKAGES[key][1]
    return Finding(about=device.kind, state="note" if remedy else "ok", found=found, remedy=remedy)


def _has(package: str) -> bool:
    """Whether it is installed: by its name, as some bring ONNX Runtime's own module and no other."""
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def _profile(machine: "Machine", name: str) -> Finding:
    from edgeai.devices.profiles import choose
    from edgeai.errors import ConfigError

    try:
        chosen = choose(name, machine)
    except ConfigError as error:
        found = " ".join(part for part in (error.what, error.why) if part)
        return Finding(about="profile", state="problem", found=found, remedy=error.remedy)
    return Finding(about="profile", state="ok", found=f"{chosen.name}: {chosen.title}")


def _energy(machine: "Machine") -> Finding:
    from edgeai.devices.energy import POWERCAP, find_meter
    from edgeai.devices.files import ROOT, entries

    meter = find_meter()
    if meter is not None:
        return Finding(about="energy", state="ok", found=f"measured by {meter.source}")
    if entries(ROOT / POWERCAP, "intel-rapl:*"):
        remedy = "Let yourself read it: sudo chmod a+r /sys/class/powercap/*/energy_uj, after each start"
        return Finding(about="energy", state="note", found="the processor's meter is for root", remedy=remedy)
    unknown = "nothing here measures it: energy_j stays unknown"
    if any(device.vendor == "NVIDIA" for device in machine.accelerators) and find_spec("pynvml") is None:
        remedy = "pip install nvidia-ml-py, which reads the GPU's meter"
        return Finding(about="energy", state="note", found=unknown, remedy=remedy)
    return Finding(about="energy", state="ok", found=unknown)


def provider_findings() -> Iterator[Finding]:
    """The execution providers beside the CPU's that ONNX Runtime offers, asked in a process of its own."""
    from edgeai.devices.providers import offers

    if find_spec("onnxruntime") is None:
        return
    for offer in offers():
        name = f"{offer.provider.name} ({offer.provider.package})"
        if offer.is_plugin and not offer.installed:
            remedy = "See docs/devices.md, Execution providers"
            yield Finding(about="provider", state="note", found=f"{name}: {offer.why}", remedy=remedy)
        elif offer.installed and offer.provider.kind != "cpu":
            yield Finding(about="provider", state="ok", found=f"{name} is offered; see the trials")


def gpu_findings() -> Iterator[Finding]:
    """The devices beside the processor that the installed llama.cpp lists, or how to get one with some."""
    from edgeai.devices.gpus import built_in, command_for, listed
    from edgeai.devices.probe import probe
    from edgeai.errors import DeviceUnavailable

    if find_spec("llama_cpp") is None:
        return
    try:
        found = [device for device in listed() if device.kind != "cpu"]
    except DeviceUnavailable as error:
        told = f"{error.what}. {error.why}"
        yield Finding(about="gpu", state="problem", found=told, remedy=error.remedy)
        return
    for device in found:
        named = f"llama.cpp has {device.name} ({device.backend}): {device.description}"
        yield Finding(about="gpu", state="ok", found=named)
    machine = probe()
    if found or not any(device.kind == "gpu" for device in machine.accelerators):
        return
    if built := ", ".join(sorted(built_in())):
        remedy = "Install the device's driver"
        yield Finding(about="gpu", state="note", found=f"llama.cpp finds none with {built}", remedy=remedy)
    else:
        remedy = f"Build it with the GPU's backend: {command_for(machine)}"
        yield Finding(about="gpu", state="note", found="llama.cpp was built for the CPU only", remedy=remedy)


def variant_findings(model: str) -> Iterator[Finding]:
    """Each installed provider with each graph that the model's packages have for it, by running it there;

    and llama.cpp's GPUs with the model.
    """
    from edgeai.devices.gpus import gpu_verdicts
    from edgeai.devices.plan import plan
    from edgeai.devices.probe import probe
    from edgeai.devices.variants import verdicts
    from edgeai.models import store

    for found in store.installed():
        if model not in (found.id, found.manifest.name):
            continue
        if found.manifest.engine == "llamacpp" and find_spec("llama_cpp") is not None:
            for verdict in gpu_verdicts(found, plan(None, found.manifest.context), probe()):
                yield _trial(f"{found.id}, decode on {verdict.provider}", verdict, "layers")
        elif found.manifest.engine == "onnx" and find_spec("onnxruntime") is not None:
            for work, verdict in verdicts(found, probe()):
                yield _trial(f"{found.id}, {work} on {verdict.provider}", verdict, "nodes")


def _trial(name: str, verdict: "Verdict", parts: str) -> Finding:
    if verdict.state == "works":
        share, cosine = verdict.node_share or 0, verdict.cosine or 0
        told = f"{name} works: {share:.0%} of the {parts}, cosine {cosine:.4f} with the CPU"
        return Finding(about="trial", state="ok", found=told)
    told = f"{name} {verdict.in_words()}"
    return Finding(about="trial", state="note", found=told, remedy=verdict.remedy)


def ladder_findings(settings: "Settings") -> Iterator[Finding]:
    """What would do each kind of work of the settings' model, with the reasons against what comes before."""
    from edgeai.devices.describe import step_in_words
    from edgeai.errors import ConfigError, EngineError
    from edgeai.load import Wanted, available_engines, device_plan
    from edgeai.models import store

    wanted = Wanted(
        n_ctx=settings.n_ctx,
        profile=settings.profile,
        goal=settings.goal,
        device=settings.device,
        allow_fallback=settings.allow_fallback,
    )
    for found in store.installed():
        named = settings.model in (found.id, found.manifest.name)
        if not named or found.manifest.engine not in available_engines():
            continue
        try:
            steps = device_plan(found, wanted).steps
        except (ConfigError, EngineError) as error:
            told = f"{error.what}: {error.why}" if error.why else error.what
            yield Finding(about="runs on", state="problem", found=told, remedy=error.remedy)
            continue
        told = "; ".join(map(step_in_words, steps)) or "the processor"
        yield Finding(about="runs on", state="ok", found=f"{found.id}: {told}")


def trial_findings(model: str, profile: str = "auto") -> Iterator[Finding]:
    """Whether each installed package of the model works, found by letting it say a token.

    And how soon that should be, by the profile.
    """
    from edgeai.cli.trial import try_out
    from edgeai.load import available_engines
    from edgeai.models import store

    aim = _first_token(profile)
    ids = [found.id for found in store.installed() if model in (found.id, found.manifest.name)]
    for id_ in ids or [model]:
        if ids and not id_.partition("@")[2].startswith(available_engines()):
            continue
        tried = try_out(id_)
        if tried.why is not None or tried.open_s is None or tried.token_s is None:
            remedy = "Reinstall the engine's package, or pull the model again"
            yield Finding(about="trial", state="problem", found=f"{id_}: {tried.why}", remedy=remedy)
        else:
            spent = f"opened in {tried.open_s:.1f} s, first token after {tried.token_s:.2f} s{aim}"
            yield Finding(about="trial", state="ok", found=f"{id_} works: {spent}")


def _first_token(profile: str) -> str:
    """What the profile aims at, in words; nothing where it says nothing, or there is none of that name."""
    from edgeai.devices.probe import probe
    from edgeai.devices.profiles import choose
    from edgeai.errors import ConfigError

    try:
        aim = choose(profile, probe()).targets.ttft_ms
    except ConfigError:  # said where the profile is looked at
        return ""
    return "" if aim is None else f" (the profile aims at {aim.value / 1e3:.2f})"
