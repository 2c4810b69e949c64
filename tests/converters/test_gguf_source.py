"""Every architecture as a tiny random GGUF file: the graph computes what llama.cpp computes."""

import ctypes
from collections.abc import Iterator
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import pytest

from edgeai.converters.linear import Quant
from edgeai.converters.onnx_package import export, open_source
from edgeai.errors import ModelUnsupported
from tests.converters.graph_runner import GraphRunner
from tests.converters.test_default_model import LlamaCpp
from tests.tiny_gguf import add_vocabulary, write_tiny_gguf

N_EMBD, N_HEADS, N_KV, N_FF, N_LAYERS = 64, 4, 2, 96, 3
IDS = np.random.default_rng(5).integers(3, 250, 48).tolist()
FTYPES = {
    "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q4_1": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_1,
    "Q5_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_0,
    "Q5_1": llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_1,
    "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "F16": llama_cpp.LLAMA_FTYPE_MOSTLY_F16,
    "BF16": llama_cpp.LLAMA_FTYPE_MOSTLY_BF16,
}


def write(path: Path, arch: str) -> Path:
    """A file with random weights, norms and biases, and whatever else the architecture has."""
    head_dim = 32 if arch in ("qwen3", "gemma3") else N_EMBD // N_HEADS
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(128)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(N_LAYERS)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(N_KV)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(50000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    if arch == "gemma3":
        writer.add_sliding_window(8)
        writer.add_uint32("gemma3.attention.sliding_window_pattern", 2)
    n_vocab = add_vocabulary(writer)
    random = np.random.default_rng(1)
    for name, shape in tensors(arch, n_vocab, head_dim):
        values = random.normal(1.0 if "norm" in name else 0.0, 0.15, shape).astype(np.float32)
        if name.startswith("rope"):
            values = np.linspace(1, 4, head_dim // 2, dtype=np.float32)
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensors(arch: str, n_vocab: int, head_dim: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes, slowest axis first."""
    n_q, n_kv = N_HEADS * head_dim, N_KV * head_dim
    yield "token_embd.weight", (n_vocab, N_EMBD)
    yield "output_norm.weight", (N_EMBD,)
    if arch in ("qwen2", "phi3"):
        yield "output.weight", (n_vocab, N_EMBD)
    if arch == "llama":
        yield "rope_freqs.weight", (head_dim // 2,)
    for i in range(N_LAYERS):
        block = {
            "attn_norm.weight": (N_EMBD,),
            "ffn_norm.weight": (N_EMBD,),
            "attn_output.weight": (N_EMBD, n_q),
        }
        block["ffn_down.weight"] = (N_EMBD, N_FF)
        if arch == "phi3":
            block |= {"attn_qkv.weight": (n_q + 2 * n_kv, N_EMBD), "ffn_up.weight": (2 * N_FF, N_EMBD)}
        else:
            block |= {"attn_q.weight": (n_q, N_EMBD), "attn_k.weight": (n_kv, N_EMBD)}
            block |= {"attn_v.weight": (n_kv, N_EMBD), "ffn_gate.weight": (N_FF, N_EMBD)}
            block |= {"ffn_up.weight": (N_FF, N_EMBD)}
        if arch == "qwen2":
            block |= {"attn_q.bias": (n_q,), "attn_k.bias": (n_kv,), "attn_v.bias": (n_kv,)}
        if arch in ("qwen3", "gemma3"):
            block |= {"attn_q_norm.weight": (head_dim,), "attn_k_norm.weight": (head_dim,)}
        if arch == "gemma3":
            block |= {"post_attention_norm.weight": (N_EMBD,), "post_ffw_norm.weight": (N_EMBD,)}
        yield from ((f"blk.{i}.{name}", shape) for name, shape in block.items())


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3", "gemma3", "phi3"])
def test_logits_equal_those_of_llama_cpp(arch: str, tmp_path: Path) -> None:
    """The reader, the row order, the norms, the windows and the rotary embeddings, all at once."""
    path = write(tmp_path / "tiny.gguf", arch)
    reference = LlamaCpp(path)
    expected = reference.logits(IDS)
    reference.close()
    folder = export(path, tmp_path / "package", quant="f32").folder
    found, _ = GraphRunner(folder).run([IDS], 0, range(len(IDS)))
    # llama.cpp keeps the cache in 16 bit
    assert np.abs(found - expected).max() < 0.02 * expected.std()


@pytest.mark.parametrize("quant", ["auto", "exact"])
@pytest.mark.parametrize("kind", FTYPES)
def test_packed_weights_answer_as_their_floats_do(kind: str, quant: Quant, tmp_path: Path) -> None:
    """In every format, with and without offsets, only the rounding of the inputs to 8 bit remains."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, path = FTYPES[kind], tmp_path / "quantized.gguf"
    parameters.pure = True  # the embedding, too
    plain = write_tiny_gguf(tmp_path / "plain.gguf")
    made = llama_cpp.llama_model_quantize(str(plain).encode(), str(path).encode(), ctypes.byref(parameters))
    assert made == 0
    packed = GraphRunner(export(path, tmp_path / "packed", quant=quant).folder)
    floats = GraphRunner(export(path, tmp_path / "floats", quant="f32").folder)
    ours, exact = (runner.run([IDS], 0, range(len(IDS)))[0] for runner in (packed, floats))
    assert np.corrcoef(ours.ravel(), exact.ravel())[0, 1] > 0.999
    assert np.abs(ours - exact).max() > 0  # the two graphs are not the same one


def test_an_architecture_that_is_not_known_is_refused(tmp_path: Path) -> None:
    """By name."""
    with pytest.raises(ModelUnsupported, match="gemma2"):
        open_source(write(tmp_path / "tiny.gguf", "gemma2"))


def test_a_tensor_that_would_be_left_out_is_refused(tmp_path: Path) -> None:
    """Half an architecture is not that architecture."""
    path = tmp_path / "tiny.gguf"
    write(path, "qwen3")
    data = path.read_bytes().replace(b"blk.0.attn_q_norm.weight", b"blk.0.attn_q_nurm.weight")
    path.write_bytes(data)
    with pytest.raises(ModelUnsupported, match="attn_q_nurm"):
        open_source(path)
