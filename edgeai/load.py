"""From a model's name to a loaded engine."""

import importlib
from pathlib import Path
from typing import Literal

from edgeai.engines import Engine
from edgeai.errors import ConfigError, ModelUnsupported

EngineName = Literal["auto", "llamacpp"]
ENGINES = ("llamacpp",)


def open_engine(model: str | Path, engine: EngineName, *, n_ctx: int | None, allow_large: bool) -> Engine:
    """Load an installed model. No network: a model that is not there is a ModelNotFound with the remedy.

    Raises ModelError's, StoreError's and EngineError's leaves, ConfigError and MissingExtra.
    """
    from edgeai.devices.plan import plan
    from edgeai.models import store
    from edgeai.models.vet import vet

    if engine not in ("auto", *ENGINES):
        raise ConfigError(f"engine is {engine!r}", remedy=f"Use 'auto' or one of {', '.join(ENGINES)}")
    found = store.find(model, allow_large=allow_large)
    if engine not in ("auto", found.manifest.engine):
        raise ModelUnsupported(
            f"{found.id} is a package for the engine {found.manifest.engine}, not {engine}",
            remedy=f"Use engine='auto' or engine={found.manifest.engine!r}",
        )
    if not found.trusted:
        vet(found.path)
    package = importlib.import_module(f"edgeai.engines.{found.manifest.engine}")
    opened: Engine = package.open_engine(
        found.path, plan(n_ctx=n_ctx, n_ctx_train=found.manifest.context), name=found.id
    )
    return opened
