"""A decoder's graph for NPUs on the emulated one; `make test-providers` runs these."""

import os
from pathlib import Path

import pytest

if os.environ.get("EDGEAI_PROVIDERS") != "qnn":
    pytest.skip("run by make test-providers", allow_module_level=True)

import numpy as np

from edgeai.converters.convert import open_source
from edgeai.converters.npu import quantize
from edgeai.converters.prefill_chunk import write_chunk
from edgeai.devices.providers import offers, try_provider
from tests.tiny_gguf import write_tiny_gguf

TOKENS = 16


def test_a_prompts_start_works_on_the_emulated_npu(tmp_path: Path) -> None:
    """Nearly all nodes run on it, with the CPU's numbers."""
    source = open_source(write_tiny_gguf(tmp_path / "tiny.gguf"))
    write_chunk(source, tmp_path / "plain.onnx", TOKENS)
    random = np.random.default_rng(5)
    feeds = [
        {"input_ids": random.integers(0, source.decoder.n_vocab, (1, TOKENS)).astype(np.int32)}
        for _ in range(16)
    ]
    quantize(tmp_path / "plain.onnx", tmp_path / "npu.onnx", "a16w8", feeds)
    qnn = next(offer for offer in offers() if offer.provider.name == "qnn")
    verdict = try_provider(qnn, tmp_path / "npu.onnx", limit_s=120)
    assert verdict.state == "works", verdict
    assert verdict.node_share is not None
    assert verdict.node_share >= 0.95
