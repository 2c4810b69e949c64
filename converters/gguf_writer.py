"""Write a decoder as a GGUF file, piece by piece."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from edgeai.converters.blocks import Blocks
from edgeai.converters.decoder import Decoder, Floats, Source, need
from edgeai.converters.encode import Plain, checked, encoded
from edgeai.converters.gguf_blocks import PACKERS, block_format, taken
from edgeai.converters.gguf_source import NAMES
from edgeai.converters.gguf_vocab import Value, vocabulary_of
from edgeai.errors import MissingExtra, ModelCorrupt, ModelUnsupported

try:
    import gguf
except ModuleNotFoundError as error:
    raise MissingExtra("Writing GGUF files needs gguf", extra="convert") from error

__all__ = ["write_gguf"]

_FILE_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "bf16": gguf.LlamaFileType.MOSTLY_BF16,
    "blocks": gguf.LlamaFileType.MOSTLY_Q4_1,
}
_PLAINS: dict[str, Plain] = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
_ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma3": "gemma3",
    "phi3": "phi3",
}
_PACKED: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "phi3": (("blk.{}.attn_qkv.weight", ("q", "k", "v")), ("blk.{}.ffn_up.weight", ("gate", "up")))
}
_MATRICES = ("q", "k", "v", "o", "gate", "up", "down")
_VECTORS = (
    "attn_norm",
    "ffn_norm",
    "q_bias",
    "k_bias",
    "v_bias",
    "o_bias",
    "q_norm",
    "k_norm",
    "post_attn_norm",
    "post_ffn_norm",
)
_ALIGNMENT = 32
Progress = Callable[[int, int], None]
_CHUNK = 1 << 22  # weights at a time
_GEMMA_PERIOD = 6  # llama.cpp's rule: every sixth layer attends to everything


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tensor:
    """One tensor to be: ``roles`` stacked matrices, or the ``values`` of a vector."""

    name: str
    shape: tuple[int, ...]
    roles: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    layer: int | None = None
    values: Floats | None = None

    def format(self, kind: str) -> str:
        """GGUF's name of its number format."""
        if not self.roles:
            return "F32"
        return block_format(self.kinds, self.shape[1]) if kind == "blocks" else kind.upper()


def write_gguf(
    source: Source, path: Path, kind: Plain | Literal["blocks"], progress: Progress = lambda done, total: None
) -> None:
    """Write all of the model to ``path``; matrices as ``kind``, vectors as floats of 32 bits.

    ``blocks`` keeps matrices that are four-bit blocks of 32 as they are, and rounds all others to Q8_0. The
    same source gives the same bytes. ``progress`` hears tensors done and all.

    Raises ModelUnsupported for what llama.cpp's form of the architecture does not have, ModelCorrupt for a
    source with missing, misshapen or infinite weights.
    """
    d = source.decoder
    tensors = list(_tensors(source))
    writer = gguf.GGUFWriter(path, _ARCHITECTURES[d.architecture])
    for key, value in (_hyper_parameters(d) | vocabulary_of(source.tokenizer(), d.n_vocab)).items():
        _add(writer, key, value)
    writer.add_file_type(_FILE_TYPES[kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for tensor in tensors:
        form = gguf.GGMLQuantizationType[tensor.format(kind)]
        weights, size = gguf.GGML_QUANT_SIZES[form]
        n_bytes = int(np.prod(tensor.shape)) // weights * size
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), n_bytes, form)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        assert writer.fout is not None
        for done, tensor in enumerate(tensors):
            progress(done, len(tensors))
            _write(writer.fout[0], source, tensor, tensor.format(kind))
        progress(len(tensors), len(tensors))
    finally:
        writer.close()


def _add(writer: gguf.GGUFWriter, key: str, value: Value) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case str():
            writer.add_string(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case _:
            writer.add_array(key, value)


def _hyper_parameters(d: Decoder) -> dict[str, Value]:
    arch = _ARCHITECTURES.get(d.architecture)
    if arch is None:
        raise _lacking(d, f"the architecture {d.architecture}")
    values: dict[str, Value] = {
        "general.name": d.name,
        f"{arch}.vocab_size": d.n_vocab,
        f"{arch}.context_length": d.max_positions,
        f"{arch}.embedding_length": d.n_embd,
        f"{arch}.block_count": d.n_layers,
        f"{arch}.feed_forward_length": d.n_ff,
        f"{arch}.attention.head_count": d.n_heads,
        f"{arch}.attention.head_count_kv": d.n_kv_heads,
        f"{arch}.attention.key_length": d.head_dim,
        f"{arch}.attention.value_length": d.head_dim,
        f"{arch}.attention.layer_norm_rms_epsilon": d.norm_eps,
    }
    if d.licence is not None:
        values["general.license"] = d.licence
    _refuse(d, arch)
    return values | _rotary(d, arch) | _windows(d, arch)


def _refuse(d: Decoder, arch: str) -> None:
    """What llama.cpp derives from the architecture must be what the model has."""
    gemma = arch == "gemma3"
    wide = gemma and d.n_layers == 62  # its rule for the 27B model
    scale = (d.n_embd / d.n_heads if wide else d.head_dim) ** -0.5
    lacks = {
        "another activation": d.activation != ("gelu_tanh" if gemma else "silu"),
        "a soft cap": bool(d.attention_softcap or d.logit_softcap),
        "another scale of attention": abs((d.attention_scale or scale) - scale) > 1e-6,
        "a part of each head that is not rotated": arch == "llama" and d.ropes[0].dim != d.head_dim,
    }
    for what, found in lacks.items():
        if found:
            raise _lacking(d, what)


def _lacking(d: Decoder, what: str) -> ModelUnsupported:
    return ModelUnsupported(
        f"{d.name} cannot be written to a GGUF file",
        why=f"llama.cpp's {d.architecture} has no place for {what}",
        remedy="Convert to ONNX instead",
    )


def _rotary(d: Decoder, arch: str) -> dict[str, Value]:
    everywhere = next((r for r, w in zip(d.ropes, d.windows, strict=True) if w is None), d.ropes[0])
    values: dict[str, Value] = {
        f"{arch}.rope.dimension_count": everywhere.dim,
        f"{arch}.rope.freq_base": everywhere.base,
    }
    if everywhere.scale != 1.0:
        values |= {f"{arch}.rope.scaling.type": "linear", f"{arch}.rope.scaling.factor": 1 / everywhere.scale}
    if arch == "phi3" and everywhere.factors is not None:
        values |= {
            f"{arch}.rope.scaling.original_context_length": d.max_positions,
            f"{arch}.rope.scaling.attn_factor": everywhere.magnitude,
        }
    elif everywhere.factors is not None and arch != "llama":
        raise _lacking(d, "factors of the rotary frequencies")
    local = next((r for r, w in zip(d.ropes, d.windows, strict=True) if w is not None), everywhere)
    if arch == "gemma3":
        values[f"{arch}.rope.freq_base_swa"] = local.base
    elif local != everywhere:
        raise _lacking(d, "layers with different rotary embeddings")
    return values


def _windows(d: Decoder, arch: str) -> dict[str, Value]:
    """Sliding windows: where llama.cpp has none, the context ends where the shortest would begin to slide."""
    spans = [window for window in d.windows if window is not None]
    if not spans:
        return {}
    if arch != "gemma3":
        return {f"{arch}.context_length": min(d.max_positions, *spans)}
    expected = tuple(None if (i + 1) % _GEMMA_PERIOD == 0 else spans[0] for i in range(d.n_layers))
    if d.windows != expected:
        raise _lacking(d, "this order of sliding windows")
    return {f"{arch}.attention.sliding_window": spans[0]}


def _tensors(source: Source) -> Iterator[_Tensor]:
    d = source.decoder
    yield _matrix(source, NAMES["embed"], ("embed",), None)
    yield _vector(source, "final_norm", None)
    if source.matrix("head") is not None:
        yield _matrix(source, NAMES["head"], ("head",), None)
    yield from _factors(d)
    packed = _PACKED.get(d.architecture, ())
    apart = [role for role in _MATRICES if not any(role in roles for _, roles in packed)]
    for i in range(d.n_layers):
        for name, roles in (*packed, *((NAMES[role], (role,)) for role in apart)):
            yield _matrix(source, name.format(i), roles, i)
        for role in _VECTORS:
            if source.vector(role, i) is not None:
                yield _vector(source, role, i)


def _factors(d: Decoder) -> Iterator[_Tensor]:
    factors = d.ropes[0].factors
    if factors is not None:
        values = np.array(factors, np.float32)
        phi = ("rope_factors_long.weight", "rope_factors_short.weight")
        for name in phi if d.architecture == "phi3" else ("rope_freqs.weight",):
            yield _Tensor(name=name, shape=values.shape, values=values)


def _matrix(source: Source, name: str, roles: tuple[str, ...], layer: int | None) -> _Tensor:
    matrices = [need(source, role, layer) for role in roles]
    shape = (sum(matrix.shape[0] for matrix in matrices), matrices[0].shape[1])
    kinds = tuple(matrix.kind for matrix in matrices)
    return _Tensor(name=name, shape=shape, roles=roles, kinds=kinds, layer=layer)


def _vector(source: Source, role: str, layer: int | None) -> _Tensor:
    values = source.vector(role, layer)
    if values is None:
        raise ModelCorrupt(f"The model has no {role}")
    if role in ("q_bias", "k_bias") and _ARCHITECTURES[source.decoder.architecture] == "llama":
        values = values[_woven(len(values), source.decoder.head_dim)]
    return _Tensor(name=NAMES[role].format(layer), shape=values.shape, values=values)


def _write(out: BinaryIO, source: Source, tensor: _Tensor, form: str) -> None:
    out.write(bytes(-out.tell() % _ALIGNMENT))
    if tensor.values is not None:
        out.write(checked(tensor.values, tensor.name).tobytes())
    for role in tensor.roles:
        for piece in _pieces(source, role, tensor.layer):
            checked(piece.scale if isinstance(piece, Blocks) else piece, tensor.name)
            out.write(_bytes(piece, form))
    out.write(bytes(-out.tell() % _ALIGNMENT))


def _bytes(piece: Blocks | Floats, form: str) -> bytes:
    if form in PACKERS:
        return PACKERS[form](piece).tobytes()
    return encoded(piece.floats() if isinstance(piece, Blocks) else piece, _PLAINS[form]).tobytes()


def _pieces(source: Source, role: str, layer: int | None) -> Iterator[Blocks | Floats]:
    """Rows of a matrix, some at a time; whole heads where they are interleaved."""
    d = source.decoder
    matrix = need(source, role, layer)
    step = max(1, _CHUNK // matrix.shape[1] // d.head_dim) * d.head_dim
    woven = role in ("q", "k") and _ARCHITECTURES[d.architecture] == "llama"
    for start in range(0, matrix.shape[0], step):
        rows = matrix.rows(start, min(start + step, matrix.shape[0]))
        yield taken(rows, _woven(min(step, matrix.shape[0] - start), d.head_dim)) if woven else rows


def _woven(n_rows: int, head_dim: int) -> NDArray[np.intp]:
    """From split halves to the interleaved order that llama.cpp rotates for this architecture."""
    return np.arange(n_rows).reshape(-1, 2, head_dim // 2).swapaxes(1, 2).reshape(-1)
