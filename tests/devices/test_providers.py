import json
import os
import sys
from pathlib import Path
from time import time

import pytest

from edgeai.devices.compiled import folder_of
from edgeai.devices.providers import PROVIDERS, Offer, offers, try_provider
from edgeai.devices.verdicts import forget, proven
from edgeai.models.disk import hash_file
from edgeai.paths import data_dir

QNN = Offer(provider=PROVIDERS["qnn"], installed=True, is_plugin=True)
GOOD = {
    "nodes": {"QNNExecutionProvider": 9, "CPUExecutionProvider": 1},
    "cosine": 0.999,
    "least_cosine": 0.97,
    "max_difference": 0.1,
}


def child(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def reporting(report: object) -> tuple[str, ...]:
    return child(f"print({json.dumps(report)!r})")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"a graph")
    return path


@pytest.mark.parametrize(
    ("code", "state", "why"),
    [
        ("import os; os.abort()", "crashed", "SIGABRT"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed", "SIGSEGV"),
        ("raise SystemExit('no driver')", "crashed", "no driver"),
        ("print('all is well')", "crashed", "without a report"),
        ("import time; time.sleep(60)", "timed out", "0.5 s"),
        ("import subprocess; subprocess.run(['sleep', '60'])", "timed out", "0.5 s"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_crash_or_a_hang_is_a_verdict(model: Path, code: str, state: str, why: str) -> None:
    """Whatever becomes of the child, the caller gets a verdict with the reason, in time."""
    limit_s = 0.5 if state == "timed out" else 20
    verdict = try_provider(QNN, model, command=child(code), limit_s=limit_s)
    assert verdict.state == state
    assert why in (verdict.why or "")
    assert verdict.seconds < 20
    assert verdict.remedy


@pytest.mark.parametrize("fate", ["import time; time.sleep(60)", "import os; os.abort()"])
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_what_was_found_before_a_failed_compilation_counts(model: Path, fate: str) -> None:
    """The provider works, only that nothing compiled is kept."""
    told = f"print({json.dumps(GOOD | {'unfinished': True})!r}, flush=True); {fate}"
    verdict = try_provider(QNN, model, command=child(told), digest="d" * 64, limit_s=1.0)
    assert verdict.state == "works"
    assert verdict.compiled is None
    finished = f"print({json.dumps(GOOD)!r}, flush=True); {fate}"
    assert try_provider(QNN, model, command=child(finished), limit_s=1.0).state in ("crashed", "timed out")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"cosine": 0.98}, "cosine 0.98"),
        ({"cosine": float("nan")}, "cosine nan"),
        ({"least_cosine": 0.94}, "One of its outputs"),
        ({"least_cosine": float("nan")}, "cosine nan"),
        ({"nodes": {"CPUExecutionProvider": 10}}, "took 0%"),
        ({"nodes": {"QNNExecutionProvider": 4, "CPUExecutionProvider": 6}}, "took 40%"),
        ({"nodes": {}}, "took 0%"),
        ({"refused": "EPFail"}, "EPFail"),
    ],
)
def test_wrong_results_and_silent_fallbacks_are_rejected(
    model: Path, change: dict[str, object], why: str
) -> None:
    """A child that ends well has shown nothing: its share of nodes and its numbers count."""
    verdict = try_provider(QNN, model, command=reporting(GOOD | change))
    assert (verdict.state, why in (verdict.why or "")) == ("rejected", True)
    assert try_provider(QNN, model, command=reporting(GOOD)).state == "works"


def test_a_verdict_belongs_to_its_circumstances(model: Path) -> None:
    """It is kept, and asked for anew when the driver or the model changes; a timeout is kept for an hour."""
    crash, works = child("raise SystemExit(3)"), reporting(GOOD)
    assert proven(QNN, model, {"driver": "1"}, command=works).state == "works"
    assert proven(QNN, model, {"driver": "1"}, command=crash).state == "works"
    assert proven(QNN, model, {"driver": "2"}, command=crash).state == "crashed"
    model.write_bytes(b"another graph")
    assert proven(QNN, model, {"driver": "1"}, command=crash).state == "crashed"
    hang = child("import time; time.sleep(60)")
    assert proven(QNN, model, {"driver": "3"}, command=hang, limit_s=0.3).state == "timed out"
    assert proven(QNN, model, {"driver": "3"}, command=works).state == "timed out"
    (verdict,) = (path for path in (data_dir() / "verdicts").glob("*.json") if "timed" in path.read_text())
    os.utime(verdict, (time() - 3700, time() - 3700))
    assert proven(QNN, model, {"driver": "3"}, command=works).state == "works"


def test_what_is_known_of_a_graph_can_be_forgotten(model: Path, tmp_path: Path) -> None:
    """With what was compiled of it; other graphs' stays."""
    other = tmp_path / "other.onnx"
    other.write_bytes(b"another graph")
    good, crash = reporting(GOOD), child("raise SystemExit(3)")
    for graph in (model, other):
        assert proven(QNN, graph, {}, command=good).state == "works"
    for path in (data_dir() / "verdicts").glob("*.json"):
        folder_of(path.stem).mkdir(parents=True)
    forget([hash_file(model)])
    (left,) = (data_dir() / "verdicts").glob("*.json")
    assert folder_of(left.stem).exists()
    assert len(list(folder_of(left.stem).parent.iterdir())) == 1
    assert proven(QNN, other, {}, command=crash).state == "works"
    assert proven(QNN, model, {}, command=crash).state == "crashed"


def test_this_machine_offers_the_cpu() -> None:
    """The real child tells what is built in; what is absent says how to get it."""
    pytest.importorskip("onnxruntime")
    found = {offer.provider.name: offer for offer in offers()}
    assert found["cpu"].installed
    absent = next(offer for offer in found.values() if not offer.installed)
    assert try_provider(absent, Path("none.onnx")).state == "not installed"


def test_a_child_that_cannot_say_offers_nothing() -> None:
    """A plugin that crashes while it is listed takes nobody with it."""
    assert offers(command=child("raise SystemExit(1)")) == ()
