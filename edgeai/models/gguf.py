"""Reads the header of a GGUF file, and believes nothing in it.

llama.cpp trusts much of what a file says and ends the process where it was lied to. So a header is read
here first: every count, length, type and offset is checked against the file's size before it is used, and
`edgeai.models.gguf_checks` then compares the numbers with one another. No dependency, no tensor data.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from edgeai.errors import ModelCorrupt, ModelNotFound
from edgeai.models.gguf_checks import check, quantization_label
from edgeai.models.gguf_reader import KEPT_ARRAY, MAX_HEADER_BYTES, Array, Reader, Scalar, TensorInfo, Value

__all__ = ["GgufHeader", "TensorInfo", "read_header"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """What a checked GGUF file says about its model.

    ``context_length`` is in tokens, ``head_dim_k`` and ``head_dim_v`` in values per head; ``n_head_kv`` is
    the largest of all layers. ``quantization`` is a label such as ``q4_1``. ``metadata`` holds the scalars
    (and short arrays as tuples, their strings as bytes).
    """

    architecture: str
    name: str | None
    parameters: int
    context_length: int
    n_embd: int
    n_layer: int
    n_head: int
    n_head_kv: int
    head_dim_k: int
    head_dim_v: int
    n_vocab: int
    quantization: str
    chat_template: str | None = field(repr=False)
    metadata: Mapping[str, Scalar | tuple[int | float | bool | bytes, ...]] = field(repr=False)
    tensors: tuple[TensorInfo, ...] = field(repr=False)


def read_header(path: Path, *, arrays: bool = False) -> GgufHeader:
    """The header of the GGUF file at ``path``; with ``arrays`` its metadata holds the long ones, too.

    Raises ModelNotFound, ModelCorrupt (says what is wrong, and at which byte) or ModelUnsupported (a
    version, architecture, tokenizer or tensor type that edgeai does not run).
    """
    try:
        with path.open("rb") as file:
            reader = Reader(file, path, keep=arrays)
            n_tensors = reader.preamble()
            values = reader.values()
            tensors = reader.tensors(n_tensors, values)
    except FileNotFoundError as error:
        raise ModelNotFound(f"There is no model file at {path}") from error
    except OSError as error:
        raise ModelCorrupt(f"{path.name} cannot be read", why=error.strerror) from error
    shape = check(path.name, values, tensors)
    return GgufHeader(
        architecture=shape.architecture,
        name=_text(values, "general.name"),
        parameters=sum(prod(tensor.shape) for tensor in tensors),
        context_length=shape.context_length,
        n_embd=shape.n_embd,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        n_head_kv=shape.n_head_kv,
        head_dim_k=shape.head_dim_k,
        head_dim_v=shape.head_dim_v,
        n_vocab=shape.n_vocab,
        quantization=quantization_label(values, Counter(t.type for t in tensors if len(t.shape) > 1)),
        chat_template=_text(values, "tokenizer.chat_template"),
        metadata=_metadata(values, longest=MAX_HEADER_BYTES if arrays else KEPT_ARRAY),
        tensors=tensors,
    )


def _text(values: Mapping[str, Value], key: str) -> str | None:
    entry = values.get(key)
    return entry.value if entry and isinstance(entry.value, str) else None


def _metadata(
    values: Mapping[str, Value], *, longest: int
) -> dict[str, Scalar | tuple[int | float | bool | bytes, ...]]:
    kept: dict[str, Scalar | tuple[int | float | bool | bytes, ...]] = {}
    for key, entry in values.items():
        if not isinstance(entry.value, Array):
            kept[key] = entry.value
        elif entry.value.values is not None and entry.value.length <= longest:
            kept[key] = entry.value.values
    return kept
