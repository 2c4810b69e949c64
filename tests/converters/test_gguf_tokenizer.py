"""The tokenizer written from a GGUF file gives llama.cpp's ids, byte-level and SentencePiece alike."""

import collections
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import pytest
import tokenizers

from edgeai.converters.gguf_file import GgufFile
from edgeai.converters.gguf_tokenizer import tokenizer_of
from edgeai.converters.pretokenizers import pre_tokenizer
from edgeai.errors import ModelCorrupt, ModelUnsupported
from tests.converters.texts import lines

N_LINES = 5000


class Reference:
    """llama.cpp's tokenizer of a file."""

    def __init__(self, path: Path) -> None:
        parameters = llama_cpp.llama_model_default_params()
        parameters.vocab_only = True
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        assert self._model
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)

    def close(self) -> None:
        """Free the model."""
        llama_cpp.llama_model_free(self._model)

    def ids(self, text: str, *, special: bool, add_bos: bool = False) -> list[int]:
        """The ids of a text."""
        data = text.encode()
        room = (llama_cpp.llama_token * (len(data) + 8))()
        n = llama_cpp.llama_tokenize(self._vocab, data, len(data), room, len(room), add_bos, special)
        assert n >= 0
        return list(room[:n])


def differences(path: Path, count: int) -> list[tuple[bool, str]]:
    """The texts whose ids are not the same."""
    data = tokenizer_of(GgufFile(path))
    ours, theirs = tokenizers.Tokenizer.from_str(data.json), Reference(path)
    specials = [token["content"] for token in json.loads(data.json)["added_tokens"]]
    found = []
    for special in (False, True):
        ours.encode_special_tokens = not special
        found += [
            (special, text)
            for text in lines(count, specials[:40])
            if ours.encode(text, add_special_tokens=False).ids != theirs.ids(text, special=special)
        ]
    assert ours.encode("a b").ids == theirs.ids("a b", special=False, add_bos=True)
    theirs.close()
    return found


def test_the_default_model_has_the_same_ids(model_path: Path) -> None:
    """5,000 lines, with control tokens read as text and as themselves."""
    assert differences(model_path, N_LINES) == []


@pytest.fixture(scope="module")
def vocabulary(model_path: Path) -> tuple[list[str], list[str], list[float]]:
    """Tokens, merges and token types of the default model."""
    file = GgufFile(model_path)
    tokens, merges = file.texts("tokenizer.ggml.tokens"), file.texts("tokenizer.ggml.merges")
    kinds = file.numbers("tokenizer.ggml.token_type")
    assert tokens
    assert merges
    assert kinds
    return tokens, merges, kinds


def write(
    path: Path, model: str, tokens: Sequence[str], kinds: Sequence[float], **arrays: Sequence[object]
) -> gguf.GGUFWriter:
    """The beginning of a GGUF file that has a tokenizer and as little else as llama.cpp allows."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(model)
    writer.add_token_list(list(tokens))
    writer.add_token_types([int(kind) for kind in kinds])
    for key, values in arrays.items():
        writer.add_array(f"tokenizer.ggml.{key}", list(values))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    return writer


def finish(writer: gguf.GGUFWriter, path: Path, n_vocab: int) -> Path:
    """Add a model of no use to the tokenizer, and close the file."""
    width = 32
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(width)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    square = np.zeros((width, width), np.float32)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", square)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", square[0])
    writer.add_tensor("token_embd.weight", np.zeros((n_vocab, width), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "qwen2", "default"])
def test_each_way_to_cut_words_gives_the_same_ids(
    pre: str, vocabulary: tuple[list[str], list[str], list[float]], tmp_path: Path
) -> None:
    """The default model's vocabulary under other rules, which cut numbers and white space otherwise."""
    tokens, merges, kinds = vocabulary
    path = tmp_path / "v.gguf"
    writer = write(path, "gpt2", tokens, kinds, merges=merges)
    writer.add_tokenizer_pre(pre)
    assert differences(finish(writer, path, len(tokens)), 1500) == []


def pieces(text: str) -> Iterator[str]:
    """The most frequent beginnings, middles and ends of words, as SentencePiece writes them."""
    counts = collections.Counter[str]()
    for word in re.findall(r" *\S+", text):
        word = word.replace(" ", "▁")
        counts.update(word[i:j] for i in range(len(word)) for j in range(i + 1, min(len(word), i + 7) + 1))
    yield from (piece for piece, n in counts.most_common(3000) if n > 1)


@pytest.mark.parametrize("prefix", [True, False])
def test_sentence_piece_gives_the_same_ids(tmp_path: Path, *, prefix: bool) -> None:
    """A vocabulary of frequent pieces, bytes for all else and user tokens; with and without ▁ in front."""
    known = list(dict.fromkeys(pieces("\n".join(lines(3000, [], seed=1)))))
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *known, "<extra>", "\n\n"]
    kinds = [2, 3, 3, *[6] * 256, *[1] * len(known), 4, 4]
    scores = [0.0] * 259 + [-float(i) for i in range(len(known))] + [0.0, 0.0]
    path = tmp_path / "v.gguf"
    writer = write(path, "llama", tokens, kinds, scores=scores)
    writer.add_add_space_prefix(prefix)
    assert differences(finish(writer, path, len(tokens)), 3000) == []


def test_an_unknown_pre_tokenizer_is_refused_by_name() -> None:
    """Guessing would give ids that are almost right."""
    with pytest.raises(ModelUnsupported, match="kimi-k2"):
        pre_tokenizer("kimi-k2")


class Fields(dict[str, object]):
    """Metadata in memory."""

    def text(self, key: str) -> str | None:
        """A string."""
        value = self.get(key)
        return value if isinstance(value, str) else None

    def integer(self, key: str) -> int | None:
        """A whole number."""
        value = self.get(key)
        return value if isinstance(value, int) else None

    def flag(self, key: str) -> bool | None:
        """A truth value."""
        return None

    def texts(self, key: str) -> list[str] | None:
        """A list of strings."""
        value = self.get(key)
        return value if isinstance(value, list) else None

    def numbers(self, key: str) -> list[float] | None:
        """A list of numbers."""
        value = self.get(key)
        return value if isinstance(value, list) else None


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"tokenizer.ggml.model": "bert"}, ModelUnsupported, "bert"),
        ({"tokenizer.ggml.model": "gpt2"}, ModelCorrupt, "vocabulary"),
        ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a", "a"]}, ModelCorrupt, "inconsistent"),
        ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a"]}, ModelCorrupt, "merges"),
        ({"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["a"]}, ModelCorrupt, "scores"),
    ],
)
def test_what_is_missing_is_named(fields: dict[str, object], error: type[Exception], says: str) -> None:
    """A kind we cannot write, or a file without its parts."""
    with pytest.raises(error, match=says):
        tokenizer_of(Fields(fields))
