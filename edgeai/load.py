"""From a model's name to a loaded engine: which package, and on which engine."""

import importlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from edgeai.binding import weights_hash
from edgeai.engines import DevicePlan, Engine
from edgeai.errors import ConfigError, MissingExtra, ModelUnsupported, OutOfMemory
from edgeai.isolated import IsolationName, needs_process

if TYPE_CHECKING:
    from edgeai.devices.profiles import Goal, Setting
    from edgeai.devices.wish import Wish
    from edgeai.measure import Speed
    from edgeai.models.store import InstalledModel

EngineName = Literal["auto", "llamacpp", "onnx"]
# An engine's name, the library it needs, and the pip extra that brings it.
LIBRARIES = {"llamacpp": ("llama_cpp", "llama"), "onnx": ("onnxruntime", "onnx")}
_LOAD_S = 120.0
_SLOWEST_DISK = 10e6  # bytes per second
_log = logging.getLogger("edgeai.load")


def available_engines() -> tuple[str, ...]:
    """The engines whose library is installed; loads none."""
    return tuple(name for name, (library, _) in LIBRARIES.items() if find_spec(library))


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """An engine with its model; ``weights`` is the hash of the model's files."""

    engine: Engine
    weights: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How a model shall be loaded; the fields are the keywords of `edgeai.Edge`.

    ``exact``: without settings that would change what a contract is bound to. With ``allow_large`` memory is
    not looked at. ``allow_fallback``: the processor will do where ``device`` cannot be had.
    """

    n_ctx: int | None = None
    threads: int | None = None
    parallel: int | None = None
    speculate: bool = True
    draft: str | Path | None = None
    profile: str = "auto"
    goal: "Goal" = "speed"
    adapters: Mapping[str, Path] = field(default_factory=dict)
    isolation: IsolationName = "auto"
    isolation_memory_bytes: int | None = None
    isolation_limit_s: float | None = None
    allow_large: bool = False
    exact: bool = False
    device: str = "auto"
    allow_fallback: bool = False


def open_model(
    model: str | Path, engine: EngineName, wanted: Wanted = Wanted(), *, weights: str | None = None
) -> Loaded:
    """Load an installed model. No network: a model that is not there is a ModelNotFound with the remedy.

    With engine="auto" and packages for several installed engines, the one that runs a typical query faster
    on this machine is taken; the first time that is measured, which takes some seconds. Where memory is too
    small for that one, another engine's is, and a smaller one, where the profile allows that. But one that
    has these ``weights`` comes before any other: a contract is bound to it. With adapters or a draft model it
    is llama.cpp, which alone takes them; with a device that only one engine reaches, that one, if there is a
    package for it.
    Raises ModelError's, StoreError's and EngineError's leaves, ConfigError and MissingExtra.
    """
    if engine not in get_args(EngineName):
        raise ConfigError(f"engine is {engine!r}", remedy=f"Use one of {', '.join(get_args(EngineName))}")
    if (wanted.adapters or wanted.draft is not None) and engine == "auto":
        engine = "llamacpp"
    if weights is None and engine == "auto":
        engine = _engine_for(model, _wish(wanted))
    try:
        found = choose_package(model, engine, allow_large=wanted.allow_large, weights=weights)
        opened = open_package(found, replace(wanted, exact=wanted.exact or weights is not None))
    except OutOfMemory as error:
        if weights is not None:
            raise
        return _open_another(model, engine, wanted, error)
    return Loaded(engine=opened, weights=weights_hash(found))


def _open_another(model: str | Path, engine: EngineName, wanted: Wanted, error: OutOfMemory) -> Loaded:
    """The first of the model's other packages for which there is memory; or the error of all."""
    is_one = isinstance(model, Path) or _is_path(model) or "@" in model
    failed = {}
    for found in [] if is_one else _instead(str(model), engine, wanted.profile):
        _log.warning("%s is tried, because: %s", found.id, error)
        try:
            return Loaded(engine=open_package(found, wanted), weights=weights_hash(found))
        except OutOfMemory as another:
            failed[found.id] = another.why or another.what
    if len(failed) < 2:
        raise error
    why = ". ".join(f"{name}: {reason}" for name, reason in failed.items())
    raise OutOfMemory(f"Neither {' nor '.join(failed)} fits into memory", why=why, remedy=error.remedy)


def _instead(model: str, engine: EngineName, profile: str) -> "list[InstalledModel]":
    """One package for each engine; and, where the profile allows it, the smaller ones, the largest first."""
    from edgeai.devices.probe import probe
    from edgeai.devices.profiles import choose

    found = [one for one in _usable(model) if engine in ("auto", one.manifest.engine)]
    first = _one_an_engine(found)
    usual, most = first if engine == "auto" else [], max(one.manifest.size for one in first)
    if "quantization" not in choose(profile, probe()).memory.adjust:
        return usual
    smaller = [one for one in found if one.manifest.size < most and one not in usual]
    return [*usual, *sorted(smaller, key=lambda one: one.manifest.size, reverse=True)]


def choose_package(
    model: str | Path, engine: EngineName, *, allow_large: bool, weights: str | None = None
) -> "InstalledModel":
    """The package that `open_model` loads; raises what it raises, but for the engine's errors."""
    if (graph := _graph_path(model)) is not None:
        return _graph_package(graph, engine, allow_large=allow_large)
    wanted = weights if engine == "auto" else None
    bound = None if wanted is None else _bound(model, wanted, allow_large=allow_large)
    return bound or _choose(model, engine, allow_large=allow_large)


def _bound(model: str | Path, weights: str, *, allow_large: bool) -> "InstalledModel | None":
    """The installed package of this name with these weights."""
    from edgeai.models import store

    if isinstance(model, Path) or _is_path(model):
        return None
    found = next((found for found in _usable(model) if weights_hash(found) == weights), None)
    return found and store.find(found.id, allow_large=allow_large)


def open_package(model: "InstalledModel", wanted: Wanted = Wanted()) -> Engine:
    """Load this package on its engine. Raises OutOfMemory, before it loads, when there is no room for it."""
    from edgeai.models.gguf_adapter import check_adapters

    check_engine(model)
    if wanted.adapters:
        check_adapters(model, wanted.adapters)
    draft = _draft(model, wanted)
    device = replace(
        device_plan(model, wanted, draft),
        draft="" if draft is None else str(draft.path.absolute()),
        weights=weights_hash(model),
        adapters={name: str(path.absolute()) for name, path in wanted.adapters.items()},
    )
    return open_planned(
        model,
        device,
        isolation=wanted.isolation,
        memory_bytes=wanted.isolation_memory_bytes,
        hang_s=wanted.isolation_limit_s,
        others=() if draft is None else (draft,),
    )


def _draft(model: "InstalledModel", wanted: Wanted) -> "InstalledModel | None":
    """The package of the draft model. Raises ConfigError and ModelError's leaves."""
    if wanted.draft is None:
        return None
    if not wanted.speculate:
        raise ConfigError("A draft model is given, and speculate is off", remedy="Leave one of them out")
    if model.manifest.engine != "llamacpp":
        raise ModelUnsupported(
            f"{model.id} runs on the engine {model.manifest.engine}, which takes no draft model",
            remedy="Use engine='llamacpp'",
        )
    return choose_package(wanted.draft, "llamacpp", allow_large=wanted.allow_large)


def open_planned(
    model: "InstalledModel",
    device: DevicePlan,
    *,
    isolation: IsolationName = "auto",
    memory_bytes: int | None = None,
    hang_s: float | None = None,
    others: "Sequence[InstalledModel]" = (),
) -> Engine:
    """Load this package on its engine, as planned, in this process or in one of its own.

    ``others`` are loaded with it, and to be trusted or not like itself.
    """
    from edgeai.models.vet import vet

    isolated = any(needs_process(one, isolation, memory_bytes, hang_s) for one in (model, *others))
    check_engine(model)
    name = model.manifest.engine
    if isolated:
        from edgeai.engines.watchdog import LIMIT_S
        from edgeai.engines.worker import open_engine as open_process

        limit_s = _LOAD_S + model.manifest.size / _SLOWEST_DISK
        return open_process(
            name,
            model.path,
            device,
            name=model.id,
            memory_bytes=memory_bytes,
            limit_s=limit_s,
            hang_s=LIMIT_S if hang_s is None else hang_s,
        )
    for one in (model, *others):
        if name == "llamacpp" and not one.trusted:
            vet(one.path)
    package = importlib.import_module(f"edgeai.engines.{name}")
    opened: Engine = package.open_engine(model.path, device, name=model.id)
    return opened


def check_engine(model: "InstalledModel") -> None:
    """Raise ModelUnsupported or MissingExtra unless the engine of this package is installed."""
    name = model.manifest.engine
    if name not in LIBRARIES:
        raise ModelUnsupported(f"{model.id} is for the engine {name!r}, which does not exist")
    if name not in available_engines():
        library, extra = LIBRARIES[name]
        raise MissingExtra(f"{model.id} needs {library}, which is not installed", extra=extra)


def device_plan(
    model: "InstalledModel", wanted: Wanted = Wanted(), draft: "InstalledModel | None" = None
) -> DevicePlan:
    """What the engine may use on this machine, now, with what `edgeai tune` found, beside a draft model.

    Raises ConfigError, DeviceUnavailable, OutOfMemory, ModelError's leaves.
    """
    from edgeai.devices.fitting import fit
    from edgeai.devices.placing import place
    from edgeai.devices.plan import plan
    from edgeai.devices.probe import probe
    from edgeai.devices.profiles import choose
    from edgeai.devices.tuning import recall

    machine, tuned = probe(), recall(model)
    chosen = choose(wanted.profile, machine)
    device = plan(
        wanted.n_ctx,
        model.manifest.context,
        threads=wanted.threads,
        parallel=wanted.parallel,
        speculate=wanted.speculate,
        tuning=tuned,
        exact=wanted.exact,
        profile=chosen,
        machine=machine,
        goal=wanted.goal,
    )
    wish = replace(_wish(wanted), tuned=None if tuned is None else tuned.provider)
    device = place(model, device, wish, chosen, wanted.goal, machine)
    if wanted.allow_large:
        return device
    fixed: tuple[Setting, ...] = ("n_ctx",) if wanted.n_ctx is not None else ()
    return fit(
        model, device, machine.memory, chosen.memory, fixed=fixed, others=relatives(model), draft=draft
    )


def _wish(wanted: Wanted) -> "Wish":
    """The device that is wanted; a contract holds for the processor's numbers, if nothing else is said."""
    from edgeai.devices.gpus import BACKENDS
    from edgeai.devices.providers import PROVIDERS
    from edgeai.devices.wish import read_wish

    device = "cpu" if wanted.exact and wanted.device == "auto" else wanted.device
    return read_wish(device, list({**PROVIDERS, **BACKENDS}), allow_fallback=wanted.allow_fallback)


def _engine_for(model: str | Path, wish: "Wish") -> EngineName:
    """The engine that reaches the device, if the model has a package for it."""
    from edgeai.devices.gpus import BACKENDS

    if wish.name in ("auto", "cpu") or isinstance(model, Path) or _is_path(model) or "@" in model:
        return "auto"
    engine: EngineName = "llamacpp" if wish.name == "gpu" or wish.name in BACKENDS else "onnx"
    return engine if any(found.manifest.engine == engine for found in _usable(model)) else "auto"


def relatives(model: "InstalledModel") -> "Iterator[InstalledModel]":
    """The other installed packages of the model whose engine is installed, too, the smallest first."""
    from edgeai.models import store

    family = [found for found in store.installed() if found.manifest.name == model.manifest.name]
    for found in sorted(family, key=lambda found: found.manifest.size):
        if found.id != model.id and found.manifest.engine in available_engines():
            yield found


def family_speeds(name: str, *, again: bool = False) -> "tuple[Speed, ...]":
    """What the packages of this model do on this machine, one an engine, the fastest first.

    Raises ModelNotFound when none is installed, MissingExtra when none can run.
    """
    from edgeai.devices.probe import engine_versions, probe
    from edgeai.measure import speeds

    machine = probe()
    versions = {package: version or "" for package, version in engine_versions().items()}
    circumstances = versions | {"cpu": machine.cpu, "cores": str(machine.usable_cores)}
    return speeds(_one_an_engine(_usable(name)), open_package, circumstances=circumstances, again=again)


def _choose(model: str | Path, engine: EngineName, *, allow_large: bool) -> "InstalledModel":
    from edgeai.models import store

    if isinstance(model, Path) or _is_path(model) or "@" in model:
        found = store.find(model, allow_large=allow_large)
        if engine not in ("auto", found.manifest.engine):
            raise ModelUnsupported(
                f"{found.id} is for the engine {found.manifest.engine}, not {engine}",
                remedy="Use engine='auto', or a package for that engine",
            )
        return found
    usable = _one_an_engine(_usable(model))
    if engine != "auto":
        usable = [found for found in usable if found.manifest.engine == engine]
        if not usable:
            raise _no_package(model, engine)
    chosen = usable[0].id
    if len(usable) > 1:
        ranked = family_speeds(model)
        chosen = ranked[0].id
        _log.info("%s runs fastest on this machine: %s", chosen, ranked)
    return store.find(chosen, allow_large=allow_large)


def _graph_path(model: str | Path) -> Path | None:
    """The ONNX graph, or the folder with one, that edgeai did not pack; None for everything else."""
    from edgeai.models.package import MANIFEST

    path = Path(model).expanduser()
    if path.suffix == ".onnx":
        return None if (path.parent / MANIFEST).is_file() and path.is_file() else path
    is_foreign = path.is_dir() and not (path / MANIFEST).is_file() and any(path.glob("*.onnx"))
    return path if is_foreign else None


def _graph_package(path: Path, engine: EngineName, *, allow_large: bool) -> "InstalledModel":
    """What onnxruntime-genai's builder, optimum or another exporter made, as if it had been packed."""
    from edgeai.engines import onnx
    from edgeai.models.shelf import refuse_large

    if engine == "llamacpp":
        raise ModelUnsupported(f"{path} is for the engine onnx, not llamacpp", remedy="Use engine='auto'")
    if "onnx" not in available_engines():
        raise MissingExtra(f"{path} needs onnxruntime, which is not installed", extra="onnx")
    found = onnx.describe(path)
    refuse_large(found.id, found.manifest.parameters, allow_large=allow_large)
    return found


def _is_path(model: str) -> bool:
    path = Path(model).expanduser()
    return path.suffix in (".gguf", ".onnx") or len(path.parts) > 1 or path.is_dir()


def _usable(name: str) -> "list[InstalledModel]":
    """The installed packages of this name whose engine is installed too, ours of the catalog first."""
    from edgeai.models import store

    family = [found for found in store.installed() if name in (found.id, found.manifest.name)]
    if not family:
        store.find(name)  # raises, with the nearest name or how to pull it
    usable = [found for found in family if found.manifest.engine in available_engines()]
    if not usable:
        library, extra = LIBRARIES[family[0].manifest.engine]
        raise MissingExtra(f"{family[0].id} needs {library}, which is not installed", extra=extra)
    return usable


def _one_an_engine(models: "Sequence[InstalledModel]") -> "list[InstalledModel]":
    """For each engine the package that keeps the quality: 4 bit made by rounding only where it is alone."""
    ranked = sorted(models, key=lambda found: (found.manifest.quantization == "int4", not found.trusted))
    best = {found.manifest.engine: found for found in reversed(ranked)}
    return [best[engine] for engine in LIBRARIES if engine in best]


def _no_package(model: str, engine: str) -> Exception:
    if engine not in available_engines():
        library, extra = LIBRARIES[engine]
        return MissingExtra(f"The engine {engine} needs {library}, which is not installed", extra=extra)
    return ModelUnsupported(
        f"{model} has no package for the engine {engine}",
        remedy=f"Make one: edgeai models pull {model}",
    )
