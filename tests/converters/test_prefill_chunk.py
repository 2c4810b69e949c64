"""A decoder's graph for a prompt's start, against the main graph of the same package."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeai.converters.npu import quantize, run
from edgeai.converters.onnx_package import export, open_source
from edgeai.converters.prefill_chunk import outputs, write_chunk
from edgeai.errors import ModelUnsupported
from tests.converters.folders import write_hf
from tests.converters.graph_runner import GraphRunner

TOKENS, SEEN = 16, 11
Ids = NDArray[np.int32]


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gemma3", "phi3"])
def test_keys_and_values_are_the_main_graphs(kind: str, tmp_path: Path) -> None:
    """Of each real token in each layer, whatever is padding; so decoding may go on from them."""
    folder = write_hf(tmp_path / "source", kind)
    main, ids = main_graph(folder, tmp_path)
    write_chunk(open_source(folder), tmp_path / "chunk.onnx", TOKENS)
    names = outputs(open_source(folder).decoder.n_layers)
    (hidden, *found), (_, *padded) = run(
        tmp_path / "chunk.onnx", [{"input_ids": row} for row in (ids, with_padding(ids))], names
    )
    _, states = main.run(ids.tolist(), 0, range(TOKENS))
    np.testing.assert_allclose(hidden[0], states.reshape(hidden[0].shape), atol=2e-4)
    wanted = main.cached(TOKENS)
    assert set(names[1:]) == set(wanted)
    for name, array, short in zip(names[1:], found, padded, strict=True):
        np.testing.assert_allclose(array, wanted[name], atol=2e-4, err_msg=name)
        np.testing.assert_allclose(short[:, :, :SEEN], array[:, :, :SEEN], atol=2e-4, err_msg=name)


def test_in_whole_numbers_they_are_nearly_the_main_graphs(tmp_path: Path) -> None:
    """The mean cosine of a16w8 with the main graph's own keys and values, not with its floats."""
    folder = write_hf(tmp_path / "source", "llama")
    main, ids = main_graph(folder, tmp_path)
    write_chunk(open_source(folder), tmp_path / "chunk.onnx", TOKENS)
    feeds = [{"input_ids": np.roll(ids, shift)} for shift in range(4)]
    quantize(tmp_path / "chunk.onnx", tmp_path / "npu.onnx", "a16w8", feeds)
    names = outputs(open_source(folder).decoder.n_layers)
    ((_, *found),) = run(tmp_path / "npu.onnx", [{"input_ids": ids}], names)
    main.run(ids.tolist(), 0, [TOKENS - 1])
    wanted = main.cached(TOKENS)
    cosines = [cosine(array, wanted[name]) for name, array in zip(names[1:], found, strict=True)]
    assert 0.99 < np.mean(cosines) < 0.9999999  # fewer bits show


def test_more_tokens_than_the_model_reads_are_refused(tmp_path: Path) -> None:
    """Rather than positions that it never saw."""
    source = open_source(write_hf(tmp_path / "source", "llama"))
    with pytest.raises(ModelUnsupported, match="NPU"):
        write_chunk(source, tmp_path / "chunk.onnx", 257)


def main_graph(folder: Path, at: Path) -> tuple[GraphRunner, Ids]:
    export(folder, at / "package", quant="f32")
    random = np.random.default_rng(4)
    return GraphRunner(at / "package"), random.integers(3, 200, (1, TOKENS)).astype(np.int32)


def with_padding(
    ids: Ids,
) -> Ids:
    return np.where(np.arange(TOKENS) < SEEN, ids, 0).astype(np.int32)


def cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    a, b = np.ravel(one).astype(np.float64), np.ravel(other).astype(np.float64)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
