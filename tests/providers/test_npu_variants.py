"""A decoder's graph for NPUs on the emulated one; `make test-providers` runs these."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

if os.environ.get("EDGEAI_PROVIDERS") != "qnn":
    pytest.skip("run by make test-providers", allow_module_level=True)

import numpy as np

from edgeai import Edge
from edgeai.converters.formats import NpuQuant
from edgeai.converters.npu import quantize
from edgeai.converters.npu_variants import add_prefill
from edgeai.converters.onnx_package import open_source
from edgeai.converters.prefill_chunk import write_chunk
from edgeai.devices.providers import offers, try_provider
from edgeai.models.package import read_manifest, write_manifest
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


@pytest.mark.timeout(600)
@pytest.mark.parametrize("quant", ["a16w8", "a8w8"])
def test_a_real_prompt_starts_on_the_emulated_npu(
    quant: NpuQuant, onnx_package: Path, model_path: Path, tmp_path: Path
) -> None:
    """The default model: the first tokens of a long prompt are read there, and the answer is the same."""
    package = tmp_path / "package"
    shutil.copytree(onnx_package, package)
    (tmp_path / "staging").mkdir()
    made = add_prefill(open_source(model_path), package, tmp_path / "staging", quant)
    print(made.gates)  # noqa: T201  # for docs/devices.md
    manifest = read_manifest(package)
    write_manifest(package, replace(manifest, files=(*manifest.files, made.file), variants=made.variants))
    with (
        Edge(package, device="cpu", ledger=False, isolation="thread") as usual,
        Edge(package, device="npu", ledger=False, isolation="thread") as edge,
    ):
        assert edge.info.device == "cpu, prefill on qnn, embed on qnn", edge.info.steps
        prompt = "Paris is the capital of France, and Rome is the capital of Italy. " * 6
        answers = [one.ask(f"{prompt}What is the capital of France?", max_tokens=12) for one in (usual, edge)]
        print([answer.text for answer in answers])  # noqa: T201
        assert answers[1].device == edge.info.device
        assert (answers[1].usage.prompt_tokens or 0) > 64
        assert all("Paris" in answer.text for answer in answers)
        short = "Rome is the capital of Italy"
        assert 0.98 < float((usual.embed([short]) * edge.embed([short])).sum()) < 0.9999999
