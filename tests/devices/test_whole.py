"""The package's ordinary graph on a GPU's provider: tried as it is used, and a reason where it is not."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeai import DeviceUnavailable, Edge
from edgeai.cli.findings import variant_findings
from edgeai.devices import variants
from edgeai.devices.probe import probe
from edgeai.devices.profiles import choose
from edgeai.devices.providers import PROVIDERS, Offer, Provider
from edgeai.devices.verdicts import circumstances
from edgeai.devices.whole import decoder_verdict, decodes
from edgeai.devices.wish import Placed, Wish
from edgeai.engines import DevicePlan, Offload, Step
from edgeai.engines.onnx.engine import open_engine
from edgeai.errors import EdgeError
from edgeai.load import open_planned
from edgeai.models import store
from edgeai.models.store import InstalledModel
from tests.engines.onnx.conftest import write_tiny_package
from tests.providers.decoders import add_variants

CUDA = Offer(provider=PROVIDERS["cuda"], installed=True)
GOOD = {
    "nodes": {"CUDAExecutionProvider": 25, "CPUExecutionProvider": 2},
    "cosine": 0.9999,
    "kl": 0.001,
    "max_difference": 0.1,
    "load_s": 0.1,
}


def saying(report: dict[str, Any]) -> tuple[str, ...]:
    return (sys.executable, "-c", f"print({json.dumps(report)!r})")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_package(tmp_path_factory.mktemp("whole") / "tiny")


@pytest.fixture
def tiny(package: Path) -> InstalledModel:
    return store.find(package)


def place(model: InstalledModel, wish: Wish) -> Placed:
    return variants.place(model, wish, choose("generic", probe()), "speed", probe())


def try_cuda(model: InstalledModel, command: tuple[str, ...]) -> str:
    verdict = decoder_verdict(model, CUDA, {}, circumstances(probe()), command=command, limit_s=10)
    return verdict.in_words()


def test_which_providers_take_any_graph(tiny: InstalledModel) -> None:
    """Those of GPUs, of decoders; NPUs want graphs of their own."""
    assert decodes(tiny, PROVIDERS["cuda"])
    assert not decodes(tiny, PROVIDERS["qnn"])
    assert not decodes(tiny, PROVIDERS["openvino"])
    assert decodes(tiny, PROVIDERS["openvino"], "GPU")


def test_auto_decodes_where_it_was_seen_to_work(tiny: InstalledModel) -> None:
    """Nothing is tried by itself, and what was not tried is not named; a try is made once."""
    assert place(tiny, Wish()) == Placed()
    assert try_cuda(tiny, saying(GOOD)) == "works"
    placed = place(tiny, Wish())
    assert (placed.provider, placed.steps) == ("cuda", (Step(work="decode", provider="cuda"),))
    assert [(o.work, o.native, o.required) for o in placed.offloads] == [
        ("decode", "CUDAExecutionProvider", False)
    ]
    assert try_cuda(tiny, ("no such program",)) == "works"


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ((sys.executable, "-c", "import os; os.abort()"), "crashed"),
        (saying({"refused": "no kernel image"}), "no kernel image"),
        (saying(GOOD | {"nodes": {"CUDAExecutionProvider": 1, "CPUExecutionProvider": 9}}), "10% of the 10"),
        (saying(GOOD | {"nodes": {}}), "0% of the 0"),
        (saying(GOOD | {"cosine": 0.2}), "93% of the nodes, but its numbers are not the CPU's"),
        (saying(GOOD | {"kl": float("nan")}), "not the CPU's"),
    ],
)
def test_a_broken_provider_is_a_reason(tiny: InstalledModel, command: tuple[str, ...], why: str) -> None:
    """It says which share of the graph was taken; the processor goes on."""
    assert why in try_cuda(tiny, command)
    placed = place(tiny, Wish())
    assert (placed.provider, placed.offloads) == ("cpu", ())
    assert why in (placed.steps[0].why or "")


def test_a_gpu_that_is_not_there(tiny: InstalledModel, package: Path) -> None:
    """Every GPU's provider has its reason, and the remedy installs it."""
    with pytest.raises(DeviceUnavailable, match="not installed") as raised:
        place(tiny, Wish(name="gpu"))
    assert "cuda" in str(raised.value)
    with Edge(package, device="gpu", allow_fallback=True, ledger=False, isolation="thread") as edge:
        assert edge.info.device == "cpu"
        assert Step(work="decode", provider="cpu") in edge.info.steps


def test_graphs_of_its_own_come_first(tmp_path: Path) -> None:
    """Where a package has them for a provider, its main graph is the processor's."""
    model = store.find(add_variants(write_tiny_package(tmp_path / "tiny"), device="cuda"))
    try_cuda(model, saying(GOOD))
    assert place(model, Wish()).provider == "cpu"


def test_the_child_runs_the_graph_as_the_engine_does(tiny: InstalledModel) -> None:
    """Here the processor stands for a GPU: all nodes are its own, and the numbers are the same."""
    same = Provider(name="same", native="CPUExecutionProvider", package="onnxruntime", kind="gpu")
    verdict = decoder_verdict(tiny, Offer(provider=same, installed=True), {}, {})
    assert (verdict.state, verdict.node_share) == ("works", 1.0), verdict
    assert verdict.cosine == pytest.approx(1)
    absent = replace(same, native="CUDAExecutionProvider")
    refused = decoder_verdict(tiny, Offer(provider=absent, installed=True), {}, {"driver": "2"})
    assert refused.state == "rejected", refused


def test_an_engine_decodes_there(tiny: InstalledModel) -> None:
    """The engine says so; one that does not open is an error if it must, or else the processor's work."""
    here = Offload(work="decode", provider="toy", native="CPUExecutionProvider", graph="", tokens=0)
    gone = replace(here, provider="gone", native="NoneExecutionProvider")
    plan = DevicePlan(
        n_ctx=64, n_threads=1, provider="toy", offloads=(here,), steps=(Step(work="decode", provider="toy"),)
    )
    engine = open_planned(tiny, plan, isolation="thread")
    try:
        assert engine.info.device == "toy"
        assert engine.score("One,", [" two"])[0] < 0
    finally:
        engine.close()
    absent = replace(plan, provider="gone", offloads=(gone,), steps=(Step(work="decode", provider="gone"),))
    engine = open_planned(tiny, absent, isolation="thread")
    try:
        assert engine.info.device == "cpu"
        assert [step.why is None for step in engine.info.steps] == [False, True]
    finally:
        engine.close()
    with pytest.raises(EdgeError):
        open_engine(tiny.path, replace(absent, offloads=(replace(gone, required=True),)), name="tiny")


def test_doctor_tries_it(tiny: InstalledModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """On each installed provider of a GPU."""
    monkeypatch.setattr(store, "installed", lambda: (tiny,))
    monkeypatch.setattr(variants, "offers", lambda: (CUDA,))
    try_cuda(tiny, saying(GOOD))
    (finding,) = variant_findings(tiny.id)
    assert "decode on cuda works: 93% of the nodes" in finding.found
