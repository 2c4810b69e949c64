"""Tiny mixtures of experts with random weights, of the kinds that llama.cpp knows."""

from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np

from tests.tiny_gguf import CHAT_TEMPLATE, add_vocabulary

N_EMBD, N_HEAD, N_LAYER, N_EXPERTS, N_USED, N_FF = 64, 4, 2, 8, 2, 32
KINDS = ("granitemoe", "olmoe", "qwen2moe", "qwen3moe")


def write_tiny_moe(path: Path, kind: str, *, n_experts: int = N_EXPERTS) -> Path:
    """Write a model of the architecture ``kind`` to ``path``, which is returned."""
    writer = gguf.GGUFWriter(path, kind)
    writer.add_name("Tiny mixture")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(512)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(N_LAYER)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(N_HEAD)
    writer.add_rope_dimension_count(N_EMBD // N_HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_expert_count(n_experts)
    writer.add_expert_used_count(N_USED)
    if kind.startswith("qwen"):
        writer.add_expert_feed_forward_length(N_FF)
        writer.add_expert_shared_feed_forward_length(N_FF)
    if kind == "granitemoe":
        writer.add_attention_scale(0.25)
        writer.add_embedding_scale(1.0)
        writer.add_residual_scale(1.0)
        writer.add_logit_scale(1.0)
    n_vocab = add_vocabulary(writer)
    writer.add_chat_template(CHAT_TEMPLATE)
    random = np.random.default_rng(1)
    for name, shape in _tensors(kind, n_vocab, n_experts):
        values = np.ones(shape) if "norm" in name else random.normal(0, 0.3, shape)
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(kind: str, n_vocab: int, n_experts: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes, slowest axis first as numpy has them."""
    yield "token_embd.weight", (n_vocab, N_EMBD)
    yield "output.weight", (n_vocab, N_EMBD)
    yield "output_norm.weight", (N_EMBD,)
    for layer in range(N_LAYER):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", (N_EMBD,)
        for part in ("q", "k", "v", "output"):
            yield f"{block}attn_{part}.weight", (N_EMBD, N_EMBD)
            if kind == "qwen2moe" and part != "output":
                yield f"{block}attn_{part}.bias", (N_EMBD,)
        if kind in ("olmoe", "qwen3moe"):
            for part in ("q", "k"):
                yield f"{block}attn_{part}_norm.weight", (N_EMBD if kind == "olmoe" else N_EMBD // N_HEAD,)
        yield block + "ffn_norm.weight", (N_EMBD,)
        yield block + "ffn_gate_inp.weight", (n_experts, N_EMBD)
        yield block + "ffn_gate_exps.weight", (n_experts, N_FF, N_EMBD)
        yield block + "ffn_up_exps.weight", (n_experts, N_FF, N_EMBD)
        yield block + "ffn_down_exps.weight", (n_experts, N_EMBD, N_FF)
        if kind == "qwen2moe":
            yield block + "ffn_gate_inp_shexp.weight", (N_EMBD,)
            yield block + "ffn_gate_shexp.weight", (N_FF, N_EMBD)
            yield block + "ffn_up_shexp.weight", (N_FF, N_EMBD)
            yield block + "ffn_down_shexp.weight", (N_EMBD, N_FF)
