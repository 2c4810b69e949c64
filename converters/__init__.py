"""From a source model to a package that fits the device. Imported as `edgeai.converters`.

`convert` does what the command ``edgeai convert`` does: one format, or the best that a search finds, for a
`Device` (`edgeai.target.device_for` makes one of a profile). `estimate` says beforehand what that takes.
Importing this package is light: each of its names is loaded when it is first used.

The contract between the graph and the engine that runs it is in `edgeai.converters.graph`.
An ONNX package's files:

- ``model.onnx`` and ``model.onnx.data``: the graph and the weights
- ``tokenizer.json``, and ``chat_template.jinja`` if the model has one
- ``tokenizer_config.json``: ``add_bos_token``, ``bos_token``, ``eos_token``
- ``generation_config.json``: ``bos_token_id``, ``eos_token_id`` (all ids that end a text)
- ``conversion.json``: what packing did to the weights, as numbers

To encode text in which control tokens are not to be read as such, set ``encode_special_tokens`` on the
`tokenizers.Tokenizer`.
"""

from typing import TYPE_CHECKING

if __name__ != "edgeai.converters":
    raise ImportError("import this package as `edgeai.converters`")

if TYPE_CHECKING:
    from edgeai.converters.device import Device
    from edgeai.converters.divergence import Divergence
    from edgeai.converters.fit import Estimate, estimate
    from edgeai.converters.formats import FORMATS, Format, format_of
    from edgeai.converters.gates import Gate, Gates
    from edgeai.converters.origin import Origin, open_origin
    from edgeai.converters.picking import Found, Row, Skipped, frontier, search
    from edgeai.converters.proof import Proof, Trial, read_proof
    from edgeai.converters.stages import Stage
    from edgeai.converters.task import Task, read_task
    from edgeai.converters.timing import Speed
    from edgeai.converters.toolchain import Package
    from edgeai.converters.wishes import Made, convert

__all__ = [
    "FORMATS",
    "Device",
    "Divergence",
    "Estimate",
    "Format",
    "Found",
    "Gate",
    "Gates",
    "Made",
    "Origin",
    "Package",
    "Proof",
    "Row",
    "Skipped",
    "Speed",
    "Stage",
    "Task",
    "Trial",
    "convert",
    "estimate",
    "format_of",
    "frontier",
    "open_origin",
    "read_proof",
    "read_task",
    "search",
]

_PLACES = {
    "device": ("Device",),
    "divergence": ("Divergence",),
    "fit": ("Estimate", "estimate"),
    "formats": ("FORMATS", "Format", "format_of"),
    "gates": ("Gate", "Gates"),
    "origin": ("Origin", "open_origin"),
    "picking": ("Found", "Row", "Skipped", "frontier", "search"),
    "proof": ("Proof", "Trial", "read_proof"),
    "stages": ("Stage",),
    "task": ("Task", "read_task"),
    "timing": ("Speed",),
    "toolchain": ("Package",),
    "wishes": ("Made", "convert"),
}
_LAZY = {name: f"edgeai.converters.{module}" for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name not in _LAZY:
        raise AttributeError(f"module 'edgeai.converters' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_LAZY[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
