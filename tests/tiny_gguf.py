"""A tiny llama with random weights: a real GGUF file of 0.4 MB that llama.cpp loads in milliseconds.

It answers nonsense, but deterministic nonsense, token by token, from a byte-level BPE vocabulary of 267
tokens: any text can go in and come out.
"""

from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ("Ġ t", "h e", "Ġt he", "i n", "a n", "Ġ a", "r e", "o n")
CONTROL, NORMAL = 3, 1


def write_tiny_gguf(
    path: Path,
    *,
    seed: int = 0,
    n_ctx: int = 512,
    n_layer: int = 2,
    chat_template: str | None = CHAT_TEMPLATE,
    architecture: str = "llama",
    vocabulary_of: Path | None = None,
) -> Path:
    """Write the model to ``path``, which is returned; the same arguments give the same bytes.

    With ``vocabulary_of`` it has that model's tokens and template, and not its own.
    ``architecture`` may be ``llama`` or ``gemma``, which have the same tensors.
    """
    n_embd, n_head, n_head_kv, n_ff = 64, 4, 2, 128
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("Tiny")
    writer.add_license("apache-2.0")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(n_embd)
    writer.add_block_count(n_layer)
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(n_head)
    writer.add_head_count_kv(n_head_kv)
    writer.add_rope_dimension_count(n_embd // n_head)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    n_vocab = add_vocabulary(writer) if vocabulary_of is None else copy_vocabulary(writer, vocabulary_of)
    if chat_template is not None and vocabulary_of is None:
        writer.add_chat_template(chat_template)
    random = np.random.default_rng(seed)
    for name, shape in _tensors(n_vocab, n_embd, n_layer, n_embd // n_head * n_head_kv, n_ff):
        values = np.ones(shape) if "norm" in name else random.normal(0, 0.2, shape)
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(
    n_vocab: int, n_embd: int, n_layer: int, n_kv: int, n_ff: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes, slowest axis first as numpy has them."""
    yield "token_embd.weight", (n_vocab, n_embd)
    yield "output_norm.weight", (n_embd,)
    for layer in range(n_layer):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", (n_embd,)
        yield block + "attn_q.weight", (n_embd, n_embd)
        yield block + "attn_k.weight", (n_kv, n_embd)
        yield block + "attn_v.weight", (n_kv, n_embd)
        yield block + "attn_output.weight", (n_embd, n_embd)
        yield block + "ffn_norm.weight", (n_embd,)
        yield block + "ffn_gate.weight", (n_ff, n_embd)
        yield block + "ffn_up.weight", (n_ff, n_embd)
        yield block + "ffn_down.weight", (n_embd, n_ff)


def add_vocabulary(writer: gguf.GGUFWriter) -> int:
    """Write the byte-level vocabulary; how many tokens it has."""
    tokens = [*SPECIALS, *_byte_letters(), *(merge.replace(" ", "") for merge in MERGES)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL] * len(SPECIALS) + [NORMAL] * (len(tokens) - len(SPECIALS)))
    writer.add_token_merges(list(MERGES))
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)  # noqa: FBT003  # gguf has no keyword for it
    return len(tokens)


def copy_vocabulary(writer: gguf.GGUFWriter, model: Path) -> int:
    """Write the vocabulary of another model; how many tokens it has."""
    reader = gguf.GGUFReader(model)
    for name, field in reader.fields.items():
        if name.startswith("tokenizer."):
            inner = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], inner)
    return len(reader.fields["tokenizer.ggml.tokens"].data)


def _byte_letters() -> list[str]:
    """One printable letter a byte, as GPT-2's tokenizer writes bytes."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]
