"""Reading GGUF headers: right about sound files, and never fooled by others."""

import struct
import time
import tracemalloc
from pathlib import Path

import pytest

from edgeai.errors import ModelCorrupt, ModelNotFound, ModelUnsupported
from edgeai.models.gguf import read_header

U32, I32, F32, BOOL, STRING = 4, 5, 6, 7, 8


def patched(path: Path, key: str, value: bytes, kind: int | None = None) -> Path:
    """``path`` with another value (of the same length) for ``key``."""
    data = bytearray(path.read_bytes())
    at = data.index(struct.pack("<Q", len(key)) + key.encode()) + 8 + len(key)
    if kind is not None:
        data[at : at + 4] = struct.pack("<I", kind)
    data[at + 4 : at + 4 + len(value)] = value
    path.write_bytes(data)
    return path


def u32(value: int) -> bytes:
    """Four bytes as a file has them."""
    return struct.pack("<I", value)


def test_the_default_model_is_described(model_path: Path) -> None:
    """The header of a real model gives the facts its makers publish, in less than 0.3 s (best of three)."""
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        header = read_header(model_path)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.3
    assert (header.architecture, header.quantization, header.parameters) == ("llama", "q4_1", 134_515_008)
    assert (header.n_embd, header.n_layer, header.n_head, header.n_head_kv) == (576, 30, 9, 3)
    assert (header.context_length, header.n_vocab) == (8192, 49152)
    assert (header.head_dim_k, header.head_dim_v) == (64, 64)
    assert "<|im_start|>" in (header.chat_template or "")
    assert sum(tensor.size for tensor in header.tensors) < model_path.stat().st_size
    assert header.metadata["llama.rope.freq_base"] == 100_000.0


def test_every_truncation_is_noticed(tiny: Path) -> None:
    """A file cut anywhere, in its header or its weights, is ModelCorrupt and names a byte."""
    whole = tiny.read_bytes()
    for length in [*range(0, 7000, 37), *range(7000, len(whole), 9973), len(whole) - 1]:
        tiny.write_bytes(whole[:length])
        with pytest.raises(ModelCorrupt, match=rf"at byte \d+ of {length}"):
            read_header(tiny)


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    """No file: ModelNotFound, which is also a FileNotFoundError."""
    with pytest.raises(FileNotFoundError) as failure:
        read_header(tmp_path / "none.gguf")
    assert isinstance(failure.value, ModelNotFound)


def test_a_folder_is_not_a_model_file(tmp_path: Path) -> None:
    """A folder with the name of a model: ModelCorrupt, not an OSError."""
    with pytest.raises(ModelCorrupt):
        read_header(tmp_path)


@pytest.mark.parametrize("count", [2**15, 2**31, 2**63, 2**64 - 1])
@pytest.mark.parametrize("at", [8, 16])
def test_announced_counts_are_not_believed(tiny: Path, count: int, at: int) -> None:
    """A monstrous number of tensors or keys is refused before memory is taken for it."""
    data = bytearray(tiny.read_bytes())
    data[at : at + 8] = struct.pack("<Q", count)
    tiny.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(ModelCorrupt, match=str(count)):
        read_header(tiny)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000


@pytest.mark.parametrize("version", [0, 1, 4, 0x03000000])
def test_other_versions_are_unsupported(tiny: Path, version: int) -> None:
    """Unknown and byte-swapped versions are named as such."""
    data = bytearray(tiny.read_bytes())
    data[4:8] = u32(version)
    tiny.write_bytes(data)
    with pytest.raises(ModelUnsupported, match=f"version {version}"):
        read_header(tiny)


@pytest.mark.parametrize("name", [b"mamba", b"bert\0", b"LLAMA"])
def test_other_architectures_are_unsupported(tiny: Path, name: bytes) -> None:
    """What edgeai does not run is ModelUnsupported with the list of what it does."""
    patched(tiny, "general.architecture", struct.pack("<Q", 5) + name)
    with pytest.raises(ModelUnsupported, match=r"Supported are .*llama"):
        read_header(tiny)


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("llama.attention.head_count", u32(0), "head_count"),
        ("llama.attention.head_count", u32(7), "cannot"),
        ("llama.attention.head_count_kv", u32(3), "cannot share 3"),
        ("llama.attention.head_count_kv", u32(8), "cannot share 8"),
        ("llama.block_count", u32(0), "block_count"),
        ("llama.block_count", u32(3), "block_count says 3"),
        ("llama.block_count", u32(2**32 - 1), "block_count"),
        ("llama.embedding_length", u32(128), "do not fit"),
        ("llama.feed_forward_length", u32(64), "shape"),
        ("llama.context_length", u32(0), "context_length"),
        ("llama.rope.dimension_count", u32(4096), "rope.dimension_count"),
        ("llama.rope.dimension_count", u32(8), "8 of them rotated"),
        ("llama.attention.layer_norm_rms_epsilon", struct.pack("<f", float("nan")), "epsilon"),
        ("llama.attention.layer_norm_rms_epsilon", struct.pack("<f", -1.0), "epsilon"),
        ("llama.rope.freq_base", struct.pack("<f", float("inf")), "freq_base"),
        ("tokenizer.ggml.eos_token_id", u32(267), "eos_token_id"),
    ],
)
def test_numbers_must_fit_one_another(tiny: Path, key: str, value: bytes, complaint: str) -> None:
    """A header that contradicts itself is ModelCorrupt and says where."""
    with pytest.raises(ModelCorrupt, match=complaint):
        read_header(patched(tiny, key, value))


@pytest.mark.parametrize("key", ["llama.block_count", "llama.attention.head_count", "general.file_type"])
def test_types_must_be_exact(tiny: Path, key: str) -> None:
    """A number of another type is refused, as llama.cpp asserts exact types."""
    with pytest.raises(ModelCorrupt):
        read_header(patched(tiny, key, b"", kind=F32))


def test_a_token_that_is_there_twice_is_refused(tiny: Path) -> None:
    """Two equal tokens end the process in llama.cpp."""
    data = tiny.read_bytes()
    tiny.write_bytes(data.replace(b"<|im_start|>", b"<|im_stort|>", 1).replace(b"<|im_end|>", b"<|im_end|>"))
    assert read_header(tiny).n_vocab == 267
    one, two = struct.pack("<Q", 1) + b"A", struct.pack("<Q", 1) + b"B"
    tiny.write_bytes(data.replace(two, one, 1))
    with pytest.raises(ModelCorrupt, match="twice"):
        read_header(tiny)


def test_unknown_tensor_types_are_unsupported(tiny: Path) -> None:
    """A tensor type without a kernel would abort llama.cpp; it is refused by number."""
    data = bytearray(tiny.read_bytes())
    at = data.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight") + 4 + 16
    data[at : at + 4] = u32(26)
    tiny.write_bytes(data)
    with pytest.raises(ModelUnsupported, match="ggml type 26"):
        read_header(tiny)


def test_a_tensor_beyond_the_end_is_refused(tiny: Path) -> None:
    """An offset that leaves the file is found, whatever else is right."""
    data = bytearray(tiny.read_bytes())
    at = data.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight") + 4 + 16 + 4
    data[at : at + 8] = struct.pack("<Q", 2**62)
    tiny.write_bytes(data)
    with pytest.raises(ModelCorrupt, match="offset"):
        read_header(tiny)
