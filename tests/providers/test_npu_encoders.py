"""Real encoders, converted for a profile with an NPU by the command line, on the emulated one.

`make test-providers` runs these: ``EDGEAI_OPTIMUM_PYTHON`` has optimum, edgeai and the model.
"""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

if os.environ.get("EDGEAI_PROVIDERS") != "qnn" or "EDGEAI_OPTIMUM_PYTHON" not in os.environ:
    pytest.skip("run by make test-providers", allow_module_level=True)

import numpy as np

from edgeai import Edge
from edgeai.devices.providers import offers, try_provider
from tests.converters.encoders import HELD_OUT, LABELS

pytestmark = pytest.mark.timeout(600)

SHORT = ("The weather is lovely today.", "Das Wetter ist heute schön.", "He drove to the stadium.")
LONG = "This is a text of more tokens than the graph for the NPU can read at once. " * 6

Convert = Callable[..., Path]


def run(*words: str | Path) -> None:
    done = subprocess.run(
        [os.environ["EDGEAI_OPTIMUM_PYTHON"], *words],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def convert(tmp_path_factory: pytest.TempPathFactory) -> Convert:
    """`edgeai convert`, of one of the real encoders."""
    folder = tmp_path_factory.mktemp("encoders")
    run("-m", "tests.converters.encoders", folder)

    def made(name: str, *more: str) -> Path:
        out = folder / f"{name}{''.join(more)}"
        cli = "from edgeai.cli import main; main()"
        run("-c", cli, "convert", folder / name, "--to", "onnx", "--out", out, *more)
        return out

    return made


def test_embeddings_come_from_the_emulated_npu(convert: Convert) -> None:
    """Short texts run there, with nearly the processor's vectors; long ones on the processor, as ever."""
    package = convert("all-MiniLM-L6-v2", "--for", "snapdragon-x-elite")
    with (
        Edge(package, device="cpu", ledger=False, isolation="thread") as usual,
        Edge(package, device="npu", ledger=False, isolation="thread") as edge,
    ):
        assert edge.info.device == "cpu, embed on qnn", edge.info.steps
        cosines = (edge.embed(SHORT) * usual.embed(SHORT)).sum(axis=1)
        print("cosines", cosines)  # noqa: T201  # for docs/devices.md
        assert 0.99 < cosines.min() < 0.9999999  # fewer bits show
        assert np.allclose(edge.embed([LONG]), usual.embed([LONG]), atol=1e-6)


def test_eight_bits_run_on_the_emulated_npu(convert: Convert) -> None:
    """Nearly all nodes, with nearly the processor's numbers; the vectors are nearly those of the floats."""
    package = convert("all-MiniLM-L6-v2", "--npu", "a8w8")
    assert_nearly_all_nodes_run(package / "npu-embed.onnx")
    with (
        Edge(package, device="cpu", ledger=False, isolation="thread") as usual,
        Edge(package, device="npu", ledger=False, isolation="thread") as edge,
    ):
        cosines = (edge.embed(SHORT) * usual.embed(SHORT)).sum(axis=1)
        print("cosines", cosines)  # noqa: T201
        assert 0.98 < cosines.min() < 0.9999999


def assert_nearly_all_nodes_run(graph: Path) -> None:
    qnn = next(offer for offer in offers() if offer.provider.name == "qnn")
    verdict = try_provider(qnn, graph)
    print(verdict)  # noqa: T201  # for docs/devices.md
    assert verdict.state == "works", verdict
    assert verdict.node_share is not None
    assert verdict.node_share >= 0.9


@pytest.mark.parametrize("wish", [("--for", "snapdragon-x-elite"), ("--npu", "a8w8")])
def test_a_classifier_chooses_on_the_emulated_npu(wish: tuple[str, str], convert: Convert) -> None:
    """The labels of sentences that it was not fitted to, with nearly the processor's probabilities."""
    package = convert("topics", *wish)
    assert_nearly_all_nodes_run(package / "npu-classify.onnx")
    with (
        Edge(package, device="cpu", ledger=False, isolation="thread") as usual,
        Edge(package, device="npu", ledger=False, isolation="thread") as edge,
    ):
        assert edge.info.device == "cpu, classify on qnn", edge.info.steps
        for label, (text, *_) in HELD_OUT.items():
            here, there = usual.choose(text, LABELS), edge.choose(text, LABELS)
            assert there.label == label
            assert here.probabilities is not None
            assert there.probabilities is not None
            apart = abs(there.probabilities[label] - here.probabilities[label])
            print(text, "apart", apart)  # noqa: T201
            assert 0 < apart < 0.1
