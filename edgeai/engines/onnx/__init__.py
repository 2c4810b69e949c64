"""ONNX packages by ONNX Runtime: decoders, and encoders for embedding and classification.

`open_engine` is the way in. Importing this package loads nothing; using it needs the extra ``onnx``.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from edgeai.engines import DevicePlan

if TYPE_CHECKING:
    from edgeai.engines.onnx.encoder import EncoderEngine
    from edgeai.engines.onnx.engine import OnnxEngine
    from edgeai.engines.onnx.facts import Needs
    from edgeai.models.shelf import InstalledModel

__all__ = ["describe", "measure", "open_engine"]


def describe(path: Path) -> "InstalledModel":
    """The graph at ``path``, a file or its folder, as the package that it would be; it is not loaded.

    Raises MissingExtra, ModelNotFound, ModelCorrupt, ModelUnsupported.
    """
    from edgeai.engines.onnx import facts

    return facts.describe(path)


def measure(path: Path) -> "Needs":
    """What the graph at ``path`` will need memory for; it is not loaded.

    Raises ModelNotFound and ModelCorrupt.
    """
    from edgeai.engines.onnx import facts

    return facts.measure(path)


def open_engine(path: Path, plan: DevicePlan, *, name: str) -> "OnnxEngine | EncoderEngine":
    """Load the ONNX file at ``path`` with the files beside it, and make it ready.

    ``path`` may also be the folder. Raises MissingExtra, ModelNotFound, ModelCorrupt,
    ModelUnsupported, EngineLoadFailed, OutOfMemory.
    """
    from edgeai.engines.onnx import encoder, engine

    if (manifest := encoder.encoder_manifest(path)) is not None:
        return encoder.open_encoder(path, manifest, plan, name=name)
    return engine.open_engine(path, plan, name=name)
