"""A graph that optimum or onnxruntime-genai exported, as a source: its weights are read back.

optimum leaves the model's ``config.json`` beside the graph. onnxruntime-genai does not; what its own
``genai_config.json`` lacks is read from the graph's attention and norms.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgeai.converters.onnx_tensors import OnnxTensors, Tensors
from edgeai.converters.safetensors_file import StoredMatrix, read_json
from edgeai.converters.safetensors_source import SafetensorsSource
from edgeai.errors import ModelCorrupt, ModelUnsupported

__all__ = ["is_graph", "open_graph"]

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma3_text")
"""Those whose exported graphs were compared with what they came from."""

_GENAI = ARCHITECTURES[:-1]
"""Of onnxruntime-genai: its builder 0.18 fails on Gemma 3's configuration."""

_REMEDY = "Give the model that it was exported from"
_NORMS = ("SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization")


def is_graph(folder: Path) -> bool:
    """Whether the folder holds an ONNX graph and no weights of another form."""
    return bool(list(folder.glob("*.onnx"))) and not list(folder.glob("*.safetensors*"))


def open_graph(folder: Path) -> SafetensorsSource:
    """Open the folder. Raises ModelNotFound, ModelCorrupt or ModelUnsupported."""
    graph = OnnxTensors(folder)
    config = _config(graph)
    _refuse_architecture(config.get("model_type"), ARCHITECTURES)
    source = SafetensorsSource(folder, config=config, tensors=_apart(graph.tensors, config))
    _refuse_missing(source)
    return source


def _refuse_architecture(kind: object, known: tuple[str, ...]) -> None:
    if kind not in known:
        raise ModelUnsupported(
            f"Weights cannot be taken back from ONNX graphs of the architecture {kind!r}",
            why=f"The converter knows those of {', '.join(known)}",
            remedy=f"edgeai runs it as it is; to convert: {_REMEDY.lower()}",
        )


def _config(graph: OnnxTensors) -> dict[str, Any]:
    if (graph.folder / "config.json").is_file():
        config = read_json(graph.folder / "config.json")
        return config | {"tie_word_embeddings": True} if graph.tied else config
    if not (graph.folder / "genai_config.json").is_file():
        raise ModelUnsupported(
            f"{graph.folder.name} holds an ONNX graph that does not say what it is",
            why="There is neither a config.json nor a genai_config.json",
            remedy=f"edgeai runs it as it is; to convert: {_REMEDY.lower()}",
        )
    model = read_json(graph.folder / "genai_config.json").get("model", {})
    _refuse_architecture(model.get("type"), _GENAI)
    try:
        return _from_genai(graph, model, model["decoder"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelCorrupt(
            "genai_config.json is incomplete or wrong", why=f"{type(error).__name__}: {error}"
        ) from error


def _from_genai(graph: OnnxTensors, model: Mapping[str, Any], decoder: Mapping[str, Any]) -> dict[str, Any]:
    attention = _attention(graph)
    head_dim = int(decoder["head_size"])
    _refuse(
        {
            "rotary embeddings outside of attention": not attention.get("do_rotary"),
            "rotation of neighbours": attention.get("rotary_interleaved"),
            "a soft cap": attention.get("softcap"),
            "another scale of attention": abs(attention.get("scale", head_dim**-0.5) - head_dim**-0.5) > 1e-6,
            "another activation": any(
                "Gelu" in node.op_type or "Relu" in node.op_type for node in graph.graph.node
            ),
        }
    )
    window = int(attention.get("local_window_size", -1))
    return {
        "model_type": model["type"],
        "hidden_size": int(decoder["hidden_size"]),
        "num_attention_heads": int(decoder["num_attention_heads"]),
        "num_key_value_heads": int(decoder["num_key_value_heads"]),
        "num_hidden_layers": int(decoder["num_hidden_layers"]),
        "head_dim": head_dim,
        "intermediate_size": graph.tensors["model.layers.0.mlp.down_proj.weight"].shape[1],
        "vocab_size": int(model["vocab_size"]),
        "max_position_embeddings": int(model["context_length"]),
        "rms_norm_eps": _epsilon(graph),
        "rope_theta": _base(graph, head_dim),
        "hidden_act": "silu",
        "bos_token_id": model.get("bos_token_id"),
        "eos_token_id": model.get("eos_token_id"),
        "tie_word_embeddings": graph.tied,
        **(
            {"sliding_window": window, "use_sliding_window": True, "max_window_layers": 0}
            if window > 0
            else {}
        ),
    }


def _attention(graph: OnnxTensors) -> dict[str, float]:
    """The attributes of attention, which must be those of all layers."""
    found = [_numbers(node) for node in graph.graph.node if node.op_type == "GroupQueryAttention"]
    if not found or any(other != found[0] for other in found):
        raise ModelUnsupported(
            f"{graph.folder.name} cannot be converted",
            why="Its graph has no GroupQueryAttention, or layers that attend differently",
            remedy=_REMEDY,
        )
    return found[0]


def _numbers(node: onnx.NodeProto) -> dict[str, float]:
    return {a.name: a.f if a.type == onnx.AttributeProto.FLOAT else a.i for a in node.attribute}


def _epsilon(graph: OnnxTensors) -> float:
    found = {_numbers(node)["epsilon"] for node in graph.graph.node if node.op_type in _NORMS}
    if len(found) != 1:
        raise ValueError(f"norms with {len(found)} values of epsilon")
    return float(np.format_float_scientific(np.float32(found.pop())))  # 1e-05, not 9.999999747378752e-06


def _base(graph: OnnxTensors, head_dim: int) -> float:
    """The base of the rotary embedding, from the angles of the second position."""
    cosine, sine = (graph.values(name)[1].astype(np.float64) for name in ("cos_cache", "sin_cache"))
    angles = np.arctan2(sine, cosine)
    dim = 2 * len(angles)
    base = float(round(angles[-1] ** (-dim / (dim - 2)), 1))
    expected = base ** (-np.arange(0, dim, 2) / dim)
    scaled = dim != head_dim or not np.allclose(angles, expected, rtol=1e-4)
    _refuse({"scaled rotary embeddings, whose rule its tables do not tell": scaled})
    return base


def _refuse(lacks: Mapping[str, object]) -> None:
    for what, found in lacks.items():
        if found:
            raise ModelUnsupported(
                "This ONNX graph cannot be converted", why=f"It has {what}", remedy=_REMEDY
            )


def _apart(tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
    """Stacked biases as those of queries, keys and values; what is head and embedding as the latter."""
    found: Tensors = {}
    n_heads = int(config["num_attention_heads"])
    head_dim = int(config.get("head_dim") or int(config["hidden_size"]) // n_heads)
    n_q, n_kv = n_heads * head_dim, int(config.get("num_key_value_heads", n_heads)) * head_dim
    ends = {"q": slice(0, n_q), "k": slice(n_q, n_q + n_kv), "v": slice(n_q + n_kv, n_q + 2 * n_kv)}
    for name, tensor in tensors.items():
        if name.endswith("qkv_proj.bias") and isinstance(tensor, StoredMatrix):
            found |= {name.replace("qkv_proj", f"{part}_proj"): tensor.part(ends[part]) for part in "qkv"}
        else:
            found[name] = tensor
    if "model.embed_tokens.weight" not in found and "lm_head.weight" in found:
        found["model.embed_tokens.weight"] = found.pop("lm_head.weight")
    return found


_VECTORS = {
    "qwen3": ("q_norm", "k_norm"),
    "gemma3": ("q_norm", "k_norm", "post_attn_norm", "post_ffn_norm"),
}
"""What layers of an architecture have beside the two norms of all."""


def _refuse_missing(source: SafetensorsSource) -> None:
    """Every layer must have its weights: a graph may hide some in operations of another name."""
    norms = ("attn_norm", "ffn_norm", *_VECTORS.get(source.decoder.architecture, ()))
    for number in range(source.decoder.n_layers):
        for role in ("q", "k", "v", "o", "gate", "up", "down"):
            if source.matrix(role, number) is None:
                raise _missing(f"matrix for {role} in layer {number}")
        for role in norms:
            if source.vector(role, number) is None:
                raise _missing(f"vector for {role} in layer {number}")
    if source.vector("final_norm") is None:
        raise _missing("last norm")


def _missing(what: str) -> ModelUnsupported:
    return ModelUnsupported(
        "This ONNX graph cannot be converted", why=f"It has no {what} under a known name", remedy=_REMEDY
    )
