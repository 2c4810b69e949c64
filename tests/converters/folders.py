"""Hugging Face folders of every architecture, tiny and random, made without transformers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from edgeai.converters.hf_writer import write_folder
from edgeai.converters.onnx_package import open_source
from tests.tiny_gguf import write_tiny_gguf

LAYERS, WIDTH, HEADS, KV_HEADS, FF = 6, 64, 4, 2, 96
COMMON: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "num_hidden_layers": LAYERS,
    "intermediate_size": FF,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "tie_word_embeddings": False},
    "llama with the rope of 3.2": {
        "model_type": "llama",
        "rope_scaling": LLAMA3,
        "tie_word_embeddings": True,
    },
    "mistral": {"model_type": "mistral", "sliding_window": 128, "tie_word_embeddings": False},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "head_dim": 32, "tie_word_embeddings": True},
    "gemma3": {
        "model_type": "gemma3_text",
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "sliding_window": 64,
        "hidden_activation": "gelu_pytorch_tanh",
        "rope_theta": 1000000.0,
    },
    "phi3": {"model_type": "phi3", "tie_word_embeddings": False},
}


def write_hf(folder: Path, kind: str, *, dtype: str = "F32", seed: int = 0) -> Path:
    """A model of that kind with random weights, and the tests' byte-level tokenizer."""
    config = COMMON | CONFIGS[kind]
    tiny = folder.parent / f"{folder.name}-tokenizer"
    tiny.mkdir(parents=True)
    write_folder(open_source(write_tiny_gguf(tiny / "t.gguf")), tiny, "f32")
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        (folder / name).write_bytes((tiny / name).read_bytes())
    n_vocab = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    config |= {"vocab_size": n_vocab, "bos_token_id": 0, "eos_token_id": 2}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    (folder / "README.md").write_text("---\nlicense: mit\n---\nA model card.\n", "utf-8")
    (folder / "LICENSE").write_text("Permission is granted.\n", "utf-8")
    write_safetensors(folder / "model.safetensors", _tensors(config, n_vocab, seed), dtype)
    return folder


def _tensors(config: dict[str, Any], n_vocab: int, seed: int) -> dict[str, Any]:
    kind = config["model_type"]
    head = config.get("head_dim", WIDTH // HEADS)
    n_q, n_kv = HEADS * head, KV_HEADS * head
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (n_vocab, WIDTH),
        "model.norm.weight": (WIDTH,),
    }
    if not config.get("tie_word_embeddings", kind == "gemma3_text"):
        shapes["lm_head.weight"] = (n_vocab, WIDTH)
    layer: dict[str, tuple[int, ...]] = {
        "self_attn.o_proj.weight": (WIDTH, n_q),
        "mlp.down_proj.weight": (WIDTH, FF),
        "input_layernorm.weight": (WIDTH,),
        "post_attention_layernorm.weight": (WIDTH,),
    }
    if kind == "phi3":
        layer |= {
            "self_attn.qkv_proj.weight": (n_q + 2 * n_kv, WIDTH),
            "mlp.gate_up_proj.weight": (2 * FF, WIDTH),
        }
    else:
        sizes = {"q": n_q, "k": n_kv, "v": n_kv}
        layer |= {f"self_attn.{name}_proj.weight": (n, WIDTH) for name, n in sizes.items()}
        layer |= {f"mlp.{name}_proj.weight": (FF, WIDTH) for name in ("gate", "up")}
        if kind == "qwen2":
            layer |= {f"self_attn.{name}_proj.bias": (n,) for name, n in sizes.items()}
    if kind in ("qwen3", "gemma3_text"):
        layer |= {f"self_attn.{name}_norm.weight": (head,) for name in "qk"}
    if kind == "gemma3_text":
        layer |= {f"{name}_feedforward_layernorm.weight": (WIDTH,) for name in ("pre", "post")}
    shapes |= {f"model.layers.{i}.{name}": shape for i in range(LAYERS) for name, shape in layer.items()}
    random = np.random.default_rng(seed)
    centre = 0.0 if kind == "gemma3_text" else 1.0
    return {
        name: random.normal(centre if "norm" in name else 0.0, 0.15, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def write_safetensors(path: Path, tensors: dict[str, Any], dtype: str = "F32") -> None:
    """The format by hand; ``dtype`` may be BF16, cut off, not rounded."""
    header, parts, offset = {}, [], 0
    for name, values in tensors.items():
        data = values if dtype == "F32" else (values.view(np.uint32) >> 16).astype(np.uint16)
        header[name] = {"dtype": dtype, "shape": values.shape, "data_offsets": [offset, offset + data.nbytes]}
        parts.append(data.tobytes())
        offset += data.nbytes
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + b"".join(parts))
