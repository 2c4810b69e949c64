"""ONNX decoder packages by ONNX Runtime.

`open_engine` is the way in. Importing this package loads nothing; using it needs the extra ``onnx``.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from edgeai.engines import DevicePlan

if TYPE_CHECKING:
    from edgeai.engines.onnx.engine import OnnxEngine

__all__ = ["open_engine"]


def open_engine(path: Path, plan: DevicePlan, *, name: str) -> "OnnxEngine":
    """Load the ONNX file at ``path`` with the files beside it, and make it ready.

    ``path`` may also be the package's folder. Raises MissingExtra, ModelNotFound, ModelCorrupt,
    ModelUnsupported, EngineLoadFailed, OutOfMemory.
    """
    from edgeai.engines.onnx import engine

    return engine.open_engine(path, plan, name=name)
