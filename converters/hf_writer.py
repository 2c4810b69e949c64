"""Write a decoder as a Hugging Face folder: safetensors, configuration, tokenizer.

The configuration is in the older spelling (``rope_theta``, ``rope_scaling``), which all versions of
transformers read; the newer one (``rope_parameters`` alone) makes older versions take another base without
a word.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from edgeai.converters.blocks import Blocks
from edgeai.converters.decoder import Decoder, Floats, Source, TokenizerData, need
from edgeai.converters.encode import Plain, checked, encoded
from edgeai.converters.hf_config import llama3_factors
from edgeai.converters.safetensors_source import GEMMA_NAMES, NAMES, PACKED
from edgeai.errors import ModelUnsupported

__all__ = ["MAX_SHARD_BYTES", "write_folder"]

MAX_SHARD_BYTES = 4 << 30
"""Weights in one file; what is larger is cut, and gets an index."""

Progress = Callable[[int, int], None]

_DTYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16"}
_TORCH = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
}
_ROLES = ("q", "k", "v", "o", "gate", "up", "down")
_VECTORS = (
    *("attn_norm", "ffn_norm", "q_bias", "k_bias", "v_bias", "o_bias"),
    *("q_norm", "k_norm", "post_attn_norm", "post_ffn_norm"),
)
_CHUNK = 1 << 22  # weights at a time
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tensor:
    """One tensor to be: stacked matrices, or a vector."""

    name: str
    shape: tuple[int, ...]
    roles: tuple[str, ...] = ()
    layer: int | None = None
    values: Floats | None = None


def write_folder(
    source: Source,
    folder: Path,
    kind: Plain,
    progress: Progress = lambda done, total: None,
    *,
    max_shard: int = MAX_SHARD_BYTES,
) -> None:
    """Write all of the model into an existing folder; the same source gives the same bytes.

    ``progress`` hears tensors done and all.
    Raises ModelUnsupported for what the configuration has no word for, ModelCorrupt for a source with
    missing, misshapen or infinite weights.
    """
    tensors = list(_tensors(source))
    data = source.tokenizer()
    _write_json(folder / "config.json", _config(source.decoder, data, tensors, kind))
    _write_tokenizer(folder, data, source.decoder)
    shards = _shards(tensors, 4 if kind == "f32" else 2, max_shard)
    names = _file_names(len(shards))
    begun = count()

    def step() -> None:
        progress(next(begun), len(tensors))

    for name, shard in zip(names, shards, strict=True):
        with (folder / name).open("wb") as out:
            _write_shard(out, source, shard, kind, step)
    step()
    if len(shards) > 1:
        where = {t.name: name for name, shard in zip(names, shards, strict=True) for t in shard}
        _write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": where})


def _file_names(n: int) -> list[str]:
    if n == 1:
        return ["model.safetensors"]
    return [f"model-{i + 1:05}-of-{n:05}.safetensors" for i in range(n)]


def _shards(tensors: list[_Tensor], width: int, max_shard: int) -> list[list[_Tensor]]:
    shards: list[list[_Tensor]] = [[]]
    size = 0
    for tensor in tensors:
        n_bytes = int(np.prod(tensor.shape)) * width
        if shards[-1] and size + n_bytes > max_shard:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += n_bytes
    return shards


def _write_shard(
    out: BinaryIO, source: Source, tensors: list[_Tensor], kind: Plain, step: Callable[[], None]
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        end = offset + int(np.prod(tensor.shape)) * (4 if kind == "f32" else 2)
        header[tensor.name] = {
            "dtype": _DTYPES[kind],
            "shape": tensor.shape,
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    out.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors:
        step()
        for piece in _pieces(source, tensor):
            out.write(encoded(checked(piece, tensor.name), kind).tobytes())


def _pieces(source: Source, tensor: _Tensor) -> Iterator[Floats]:
    if tensor.values is not None:
        yield tensor.values
    for role in tensor.roles:
        matrix = need(source, role, tensor.layer)
        step = max(1, _CHUNK // matrix.shape[1])
        for start in range(0, matrix.shape[0], step):
            rows = matrix.rows(start, min(start + step, matrix.shape[0]))
            yield rows.floats() if isinstance(rows, Blocks) else rows


def _tensors(source: Source) -> Iterator[_Tensor]:
    d = source.decoder
    names = NAMES | GEMMA_NAMES if d.architecture == "gemma3" else NAMES
    yield _matrix(source, names["embed"], ("embed",), None)
    if source.matrix("head") is not None:
        yield _matrix(source, names["head"], ("head",), None)
    yield from _vector(source, names, "final_norm", None)
    packed = {name: tuple(r for r, n in PACKED.items() if n == name) for name in PACKED.values()}
    groups = packed if d.architecture == "phi3" else {}
    apart = [role for role in _ROLES if not any(role in roles for roles in groups.values())]
    for i in range(d.n_layers):
        for name, roles in (*groups.items(), *((names[role], (role,)) for role in apart)):
            yield _matrix(source, name.format(i), roles, i)
        for role in _VECTORS:
            yield from _vector(source, names, role, i)


def _matrix(source: Source, name: str, roles: tuple[str, ...], layer: int | None) -> _Tensor:
    shapes = [need(source, role, layer).shape for role in roles]
    shape = (sum(rows for rows, _ in shapes), shapes[0][1])
    return _Tensor(name=name, shape=shape, roles=roles, layer=layer)


def _vector(source: Source, names: Mapping[str, str], role: str, layer: int | None) -> Iterator[_Tensor]:
    values = source.vector(role, layer)
    if values is None:
        return
    if source.decoder.architecture == "gemma3" and role.endswith("_norm"):
        values = values - np.float32(1)  # as this family stores its norms
    yield _Tensor(name=names[role].format(layer), shape=values.shape, values=values)


def _config(d: Decoder, data: TokenizerData, tensors: list[_Tensor], kind: Plain) -> dict[str, Any]:
    names = {tensor.name for tensor in tensors}
    gemma = d.architecture == "gemma3"
    config: dict[str, Any] = {
        "architectures": [_CLASSES[d.architecture]],
        "model_type": "gemma3_text" if gemma else d.architecture,
        "hidden_size": d.n_embd,
        "intermediate_size": d.n_ff,
        "num_hidden_layers": d.n_layers,
        "num_attention_heads": d.n_heads,
        "num_key_value_heads": d.n_kv_heads,
        "head_dim": d.head_dim,
        "vocab_size": d.n_vocab,
        "max_position_embeddings": d.max_positions,
        "rms_norm_eps": _short(d.norm_eps),
        "hidden_activation" if gemma else "hidden_act": "gelu_pytorch_tanh" if gemma else d.activation,
        "attention_bias": NAMES["o_bias"].format(0) in names,
        "tie_word_embeddings": NAMES["head"] not in names,
        "bos_token_id": data.bos_id,
        "eos_token_id": data.eos_ids[0] if len(data.eos_ids) == 1 else list(data.eos_ids) or None,
        "pad_token_id": None,  # else a default of the architecture's first model is taken
        "torch_dtype": _TORCH[kind],
        "use_cache": True,
    }
    return config | _rope(d) | (_gemma(d) if gemma else _window(d))


def _short(value: float) -> float:
    """The shortest decimal that is the same number in 32 bits: 1e-05, not 9.999999747378752e-06."""
    return float(np.format_float_scientific(np.float32(value)))


def _whole(value: float) -> int | float:
    """As whole a number as it is: newer versions insist on it."""
    found = _short(value)
    return int(found) if found.is_integer() else found


def _rope(d: Decoder) -> dict[str, Any]:
    rope = next((r for r, w in zip(d.ropes, d.windows, strict=True) if w is None), d.ropes[0])
    values: dict[str, Any] = {"rope_theta": _short(rope.base)}
    if rope.dim != d.head_dim:
        values["partial_rotary_factor"] = rope.dim / d.head_dim
    if rope.factors is not None:
        values["rope_scaling"] = _factors(d)
    elif rope.scale != 1.0:
        factor = 1 / rope.scale
        values["rope_scaling"] = {"type": "linear", "rope_type": "linear", "factor": _short(factor)}
    return values


def _factors(d: Decoder) -> dict[str, Any]:
    """The factors as parameters: those of Llama 3, where they give these very factors."""
    rope = d.ropes[0]
    assert rope.factors is not None
    if d.architecture == "phi3":
        listed = list(rope.factors)
        return {
            "type": "longrope",
            "rope_type": "longrope",
            "short_factor": listed,
            "long_factor": listed,
            "attention_factor": rope.magnitude,
            "original_max_position_embeddings": d.max_positions,
        }
    scaling = {"factor": float(max(rope.factors)), **_LLAMA3}
    if not np.allclose(llama3_factors(scaling, rope.base, rope.dim), rope.factors, rtol=1e-4):
        raise ModelUnsupported(
            f"{d.name} cannot be written as a Hugging Face folder",
            why="Its rotary factors are not those of Llama 3",
            remedy="Convert to ONNX or GGUF instead",
        )
    return {"type": "llama3", "rope_type": "llama3", **scaling}


def _window(d: Decoder) -> dict[str, Any]:
    spans = {window for window in d.windows if window is not None}
    if not spans:
        return {"sliding_window": None} if d.architecture in ("mistral", "phi3") else {}
    if d.architecture.startswith("qwen"):
        first = next(i for i, window in enumerate(d.windows) if window is not None)
        return {"use_sliding_window": True, "max_window_layers": first, "sliding_window": min(spans)}
    return {"sliding_window": min(spans)}


def _gemma(d: Decoder) -> dict[str, Any]:
    local = next((r for r, w in zip(d.ropes, d.windows, strict=True) if w is not None), d.ropes[0])
    kinds = ["full_attention" if window is None else "sliding_attention" for window in d.windows]
    return {
        "sliding_window": next((window for window in d.windows if window), d.max_positions),
        "layer_types": kinds,
        "rope_local_base_freq": _short(local.base),
        "query_pre_attn_scalar": _whole((d.attention_scale or d.head_dim**-0.5) ** -2),
        "attn_logit_softcapping": d.attention_softcap or None,
        "final_logit_softcapping": d.logit_softcap or None,
    }


def _write_tokenizer(folder: Path, data: TokenizerData, d: Decoder) -> None:
    (folder / "tokenizer.json").write_text(data.json, "utf-8", newline="\n")
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **data.tokens,
        "add_bos_token": data.add_bos,
        "clean_up_tokenization_spaces": False,
        "model_max_length": d.max_positions,
    }
    if data.chat_template is not None:
        settings["chat_template"] = data.chat_template  # for versions that do not know the file
        (folder / "chat_template.jinja").write_text(data.chat_template, "utf-8", newline="")
    _write_json(folder / "tokenizer_config.json", settings)
    ends = {"bos_token_id": data.bos_id, "eos_token_id": list(data.eos_ids)}
    _write_json(folder / "generation_config.json", ends)
    if d.licence is not None:
        (folder / "README.md").write_text(f"---\nlicense: {d.licence}\n---\n", "utf-8", newline="\n")


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", "utf-8", newline="\n")
