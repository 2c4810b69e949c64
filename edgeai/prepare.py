"""From a catalog name to packages that the installed engines can run: pull, then convert where needed."""

from collections.abc import Callable
from importlib.util import find_spec

from edgeai.load import available_engines
from edgeai.models import catalog, store
from edgeai.models.store import InstalledModel, Progress
from edgeai.models.vouched import vouch

CONVERTER_LIBRARIES = ("onnx", "tokenizers")


def prepare(
    name: str,
    *,
    progress: Callable[[Progress], None] = lambda step: None,
    allow_large: bool = False,
) -> tuple[InstalledModel, ...]:
    """Install a model of the catalog for every engine that is installed.

    The GGUF file is pulled; if ONNX Runtime and the converter's libraries are installed, an ONNX package is
    made of it, once. ``name`` may be an id: then only that package. Raises what `store.pull` raises, and
    ModelUnsupported.
    """
    family, _, rest = name.partition("@")
    wanted = rest.partition("-")[0]
    if wanted != "onnx":
        pulled = store.pull(name, progress=progress, allow_large=allow_large)
        if wanted or not can_convert():
            return (pulled,)
    else:
        pulled = store.pull(family, progress=progress, allow_large=allow_large)
    return (pulled, _onnx_package(family, pulled, progress, allow_large=allow_large))


def can_convert() -> bool:
    """Whether ONNX Runtime and the converter's libraries are installed; loads none."""
    return "onnx" in available_engines() and all(find_spec(library) for library in CONVERTER_LIBRARIES)


def is_prepared(name: str) -> bool:
    """Whether some installed engine can open this model now."""
    family = [found for found in store.installed() if name in (found.id, found.manifest.name)]
    return any(found.manifest.engine in available_engines() for found in family)


def is_known(name: str) -> bool:
    """Whether the catalog has this model."""
    return any(name.partition("@")[0] == entry.name for entry in catalog.entries())


def _onnx_package(
    family: str, source: InstalledModel, progress: Callable[[Progress], None], *, allow_large: bool
) -> InstalledModel:
    for found in store.installed():
        if found.manifest.name == family and found.manifest.engine == "onnx":
            return found
    from edgeai.converters.onnx_package import convert

    size = source.manifest.size

    def layers(done: int, total: int) -> None:
        progress(Progress(id=family, stage="convert", done=size * done // total, total=size))

    made = convert(source.path, family, allow_large=allow_large, progress=layers)
    found = store.find(made.manifest.id, allow_large=allow_large)
    if source.trusted:
        vouch(found)
    return found
