"""A Hugging Face `config.json` as the hyper-parameters of a decoder; old and new spellings."""

import math
from collections.abc import Mapping
from typing import Any

from edgeai.converters.decoder import Decoder, Rope
from edgeai.errors import ModelCorrupt, ModelUnsupported

Config = Mapping[str, Any]

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text", "phi3")
"""The values of ``model_type`` that can be converted."""

_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}


def decoder_of(config: Config, name: str, licence: str | None) -> Decoder:
    """The hyper-parameters; raises ModelUnsupported (what is missing, by name) or ModelCorrupt."""
    _refuse(config)
    try:
        return _read(config, name, licence)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelCorrupt(
            "config.json is incomplete or wrong", why=f"{type(error).__name__}: {error}"
        ) from error


def _refuse(config: Config) -> None:
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        raise ModelUnsupported(
            f"The architecture {kind!r} cannot be converted",
            why=f"The converter knows {', '.join(ARCHITECTURES)}",
        )
    missing = {
        "biases in the MLP": config.get("mlp_bias"),
        "attention in both directions": config.get("use_bidirectional_attention"),
        f"the activation {_activation(config)}": _activation(config) not in _ACTIVATIONS,
    }
    for feature, present in missing.items():
        if present:
            raise ModelUnsupported(
                f"This {kind} model cannot be converted", why=f"The converter lacks {feature}"
            )


def _activation(config: Config) -> str:
    return str(config.get("hidden_activation") or config.get("hidden_act") or "silu")


def _read(config: Config, name: str, licence: str | None) -> Decoder:
    n_embd, n_heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    n_layers = int(config["num_hidden_layers"])
    head_dim = int(config.get("head_dim") or n_embd // n_heads)
    gemma = config["model_type"] == "gemma3_text"
    sliding = _sliding(config, n_layers)
    window = config.get("sliding_window")
    return Decoder(
        architecture=str(config["model_type"]).removesuffix("_text"),
        name=name,
        n_layers=n_layers,
        n_embd=n_embd,
        n_heads=n_heads,
        n_kv_heads=int(config.get("num_key_value_heads") or n_heads),
        head_dim=head_dim,
        n_ff=int(config["intermediate_size"]),
        n_vocab=int(config["vocab_size"]),
        max_positions=_max_positions(config),
        norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        ropes=tuple(_rope(config, head_dim, local=gemma and local) for local in sliding),
        windows=tuple(int(window) if local and window else None for local in sliding),
        activation=_ACTIVATIONS[_activation(config)],
        embedding_scale=math.sqrt(n_embd) if gemma else 1.0,
        attention_scale=float(config["query_pre_attn_scalar"]) ** -0.5 if gemma else None,
        attention_softcap=float(config.get("attn_logit_softcapping") or 0.0),
        logit_softcap=float(config.get("final_logit_softcapping") or 0.0),
        licence=licence,
    )


def _sliding(config: Config, n_layers: int) -> tuple[bool, ...]:
    """Which layers have a sliding window."""
    types = config.get("layer_types")
    if types:
        if len(types) != n_layers or not {"full_attention", "sliding_attention"}.issuperset(types):
            raise ModelUnsupported(
                "The layers' kinds of attention are unknown", why=", ".join(sorted(set(types)))
            )
        return tuple(kind == "sliding_attention" for kind in types)
    kind = config["model_type"]
    if kind == "gemma3_text":
        pattern = int(config.get("sliding_window_pattern") or 6)
        return tuple((i + 1) % pattern != 0 for i in range(n_layers))
    if kind in ("qwen2", "qwen3"):
        first = int(config.get("max_window_layers") or 0)
        return tuple(bool(config.get("use_sliding_window")) and i >= first for i in range(n_layers))
    return (config.get("sliding_window") is not None,) * n_layers


def _scaling(config: Config, *, local: bool) -> tuple[Config, float]:
    """The rope's parameters and its base: nested by kind of layer, nested, or at the top."""
    nested = config.get("rope_parameters")
    if nested:
        chosen = nested.get("sliding_attention" if local else "full_attention", nested)
        return chosen, float(chosen["rope_theta"])
    if local:
        return {}, float(config.get("rope_local_base_freq", 10000.0))
    return config.get("rope_scaling") or {}, float(config.get("rope_theta", 10000.0))


def _rope_kind(scaling: Config) -> str:
    return str(scaling.get("rope_type") or scaling.get("type") or "default")


def _original(config: Config, scaling: Config) -> int:
    found = scaling.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
    return int(found or config["max_position_embeddings"])


def _max_positions(config: Config) -> int:
    """The longest context; with longrope only the one that the short factors are for."""
    scaling, _ = _scaling(config, local=False)
    if _rope_kind(scaling) == "longrope":
        return _original(config, scaling)
    return int(config["max_position_embeddings"])


def _rope(config: Config, head_dim: int, *, local: bool) -> Rope:
    scaling, base = _scaling(config, local=local)
    partial = float(scaling.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0)
    dim = int(head_dim * partial)
    kind = _rope_kind(scaling)
    if kind == "default":
        return Rope(base=base, dim=dim)
    if kind == "linear":
        return Rope(base=base, dim=dim, scale=1 / float(scaling["factor"]))
    if kind == "llama3":
        return Rope(base=base, dim=dim, factors=llama3_factors(scaling, base, dim))
    if kind == "longrope":
        return _longrope(config, scaling, base, dim)
    raise ModelUnsupported(
        f"The rotary scaling {kind!r} cannot be converted",
        why="Known are default, linear, llama3 and longrope",
    )


def _longrope(config: Config, scaling: Config, base: float, dim: int) -> Rope:
    original = _original(config, scaling)
    stretch = int(config["max_position_embeddings"]) / original
    magnitude = scaling.get("attention_factor")
    if magnitude is None:
        magnitude = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0
    factors = tuple(float(x) for x in scaling["short_factor"])
    return Rope(base=base, dim=dim, factors=factors, magnitude=float(magnitude))


def llama3_factors(scaling: Config, base: float, dim: int) -> tuple[float, ...]:
    """Long waves are slowed by ``factor``, short ones not, those between in part."""
    factor, low, high = (float(scaling[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    original = float(scaling["original_max_position_embeddings"])
    factors = []
    for i in range(0, dim, 2):
        turns = original / (2 * math.pi * base ** (i / dim))
        smooth = min(max((turns - low) / (high - low), 0.0), 1.0)
        factors.append(1 / ((1 - smooth) / factor + smooth))
    return tuple(factors)
