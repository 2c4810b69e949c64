"""GGUF models by llama.cpp, on the low-level bindings of llama-cpp-python.

`open_engine` is the way in. Importing this package loads nothing; using it needs the extra ``llama``.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from edgeai.engines import DevicePlan

if TYPE_CHECKING:
    from edgeai.engines.llamacpp.engine import LlamaCppEngine

__all__ = ["open_engine"]


def open_engine(path: Path, plan: DevicePlan, *, name: str) -> "LlamaCppEngine":
    """Load the GGUF file at ``path``, whose header has been checked, and make it ready.

    Raises MissingExtra, ModelNotFound, ModelUnsupported, EngineLoadFailed, OutOfMemory.
    """
    from edgeai.engines.llamacpp import engine

    return engine.open_engine(path, plan, name=name)
