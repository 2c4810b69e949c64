"""From a model's name to a loaded engine: which package, and on which engine."""

import importlib
import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from edgeai.binding import weights_hash
from edgeai.engines import Engine
from edgeai.errors import ConfigError, MissingExtra, ModelUnsupported

if TYPE_CHECKING:
    from edgeai.measure import Speed
    from edgeai.models.store import InstalledModel

EngineName = Literal["auto", "llamacpp", "onnx"]
# An engine's name, the library it needs, and the pip extra that brings it.
LIBRARIES = {"llamacpp": ("llama_cpp", "llama"), "onnx": ("onnxruntime", "onnx")}
_log = logging.getLogger("edgeai.load")


def available_engines() -> tuple[str, ...]:
    """The engines whose library is installed; loads none."""
    return tuple(name for name, (library, _) in LIBRARIES.items() if find_spec(library))


def open_engine(model: str | Path, engine: EngineName, *, n_ctx: int | None, allow_large: bool) -> Engine:
    """Load an installed model. No network: a model that is not there is a ModelNotFound with the remedy.

    With engine="auto" and packages for several installed engines, the one that runs a typical query faster
    on this machine is taken; the first time that is measured, which takes some seconds.
    Raises ModelError's, StoreError's and EngineError's leaves, ConfigError and MissingExtra.
    """
    return open_package(choose_package(model, engine, allow_large=allow_large), n_ctx=n_ctx)


def choose_package(
    model: str | Path, engine: EngineName, *, allow_large: bool, weights: str | None = None
) -> "InstalledModel":
    """The package that `open_engine` loads; raises what it raises, but for the engine's errors.

    With engine="auto" the package of this name that has these ``weights`` (`weights_hash`) comes before any
    other, however fast: a contract is bound to it.
    """
    if engine not in get_args(EngineName):
        raise ConfigError(f"engine is {engine!r}", remedy=f"Use one of {', '.join(get_args(EngineName))}")
    if weights is not None and engine == "auto" and not (isinstance(model, Path) or _is_path(model)):
        bound = [found for found in _usable(model) if weights_hash(found) == weights]
        if bound:
            from edgeai.models import store

            return store.find(bound[0].id, allow_large=allow_large)
    return _choose(model, engine, allow_large=allow_large)


def open_package(model: "InstalledModel", *, n_ctx: int | None = None) -> Engine:
    """Load this package on its engine."""
    from edgeai.devices.plan import plan
    from edgeai.models.vet import vet

    name = model.manifest.engine
    if name not in LIBRARIES:
        raise ModelUnsupported(f"{model.id} is for the engine {name!r}, which does not exist")
    if name not in available_engines():
        library, extra = LIBRARIES[name]
        raise MissingExtra(f"{model.id} needs {library}, which is not installed", extra=extra)
    if name == "llamacpp" and not model.trusted:
        vet(model.path)
    package = importlib.import_module(f"edgeai.engines.{name}")
    device = plan(n_ctx=n_ctx, n_ctx_train=model.manifest.context)
    opened: Engine = package.open_engine(model.path, device, name=model.id)
    return opened


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
                remedy=f"Use engine='auto', or convert it: edgeai models convert {model}",
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
