import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edgeai import Edge
from edgeai.devices.fitting import fit, memory_plan, room
from edgeai.devices.footprint import needs
from edgeai.devices.memory import Memory
from edgeai.devices.placing import place
from edgeai.devices.plan import is_hot, plan
from edgeai.devices.probe import probe
from edgeai.devices.profiles import KvType, MemoryBudget, choose
from edgeai.devices.schema import Figure
from edgeai.devices.wish import Placed, Wish
from edgeai.engines import DevicePlan
from edgeai.errors import ConfigError, ModelTooLarge, OutOfMemory
from edgeai.load import open_package
from edgeai.models import store
from edgeai.models.shelf import InstalledModel
from tests.devices.trees import MACHINES, arm, battery, memory, plant, zone


def rough(value: float) -> Figure:
    return Figure(value=value, provenance="estimated")


OPEN = """
import sys
import psutil
from edgeai import Edge
from edgeai.devices import fitting
from edgeai.models import store
store.find(sys.argv[1])
before = psutil.Process().memory_info().rss
with Edge(sys.argv[1], n_ctx=512, ledger=False) as edge:
    edge.ask("Hello", max_tokens=1)
    print(psutil.Process().memory_info().rss - before)
"""
KV_TYPES: tuple[KvType, ...] = ("f16", "q8_0")
ALL = MemoryBudget(model_share=rough(1), keep_free_mb=rough(0))
SHRINKS = MemoryBudget(model_share=rough(1), keep_free_mb=rough(0), adjust=("n_ctx",))
STORES = MemoryBudget(model_share=rough(1), keep_free_mb=rough(0), adjust=("kv_type",))
WISH = DevicePlan(n_ctx=4096, n_threads=1)


@pytest.fixture
def model(model_path: Path) -> InstalledModel:
    """The default model."""
    return store.find("smollm2-135m-instruct")


def some(mb: float) -> Memory:
    return Memory(total=8_000_000_000, available=int(mb * 1e6))


def test_the_terms(model: InstalledModel) -> None:
    """Weights are the file's tensors, and keys and values are what the engine says they are."""
    found = needs(model).at(1024, parallel=4)
    assert 0.98 * model.manifest.size < found.weights < model.manifest.size
    assert found.kv_cache == 1024 * 30 * 3 * 64 * 2 * 2
    with_q8 = needs(model).at(1024, "q8_0", parallel=4).kv_cache
    assert with_q8 == found.kv_cache * 34 / 64
    assert needs(model).at(1024).kv_cache == 2 * found.kv_cache  # eight at once have 256 cells each
    assert found.total == (found.weights + found.kv_cache + found.tokenizer + found.buffers + found.code)


def test_the_prediction_is_near_what_a_process_holds(model: InstalledModel) -> None:
    """A rough bound on the growth of a child's resident size; `python -m benchmarks memory` is exact."""
    child = [sys.executable, "-c", OPEN, str(model.path)]
    grown = int(subprocess.run(child, capture_output=True, text=True, check=True).stdout)
    assert 0.7 < needs(model).at(512).total / grown < 1.4


def test_room_is_what_profile_and_machine_leave() -> None:
    """A share of all memory, and never what must stay free."""
    budget = MemoryBudget(model_share=rough(0.25), keep_free_mb=rough(500))
    assert room(Memory(total=8_000_000_000, available=7_000_000_000), budget) == 2_000_000_000
    assert room(Memory(total=8_000_000_000, available=900_000_000), budget) == 400_000_000
    assert room(Memory(total=8_000_000_000, available=100_000_000), budget) == 0


def test_layers_on_a_gpu_leave_the_machines_memory(model: InstalledModel) -> None:
    """What is moved is not needed here, and the shorter the context, the less is moved."""
    found = needs(model)
    assert found.layers == 31
    assert sum(found.blocks) + found.output < found.weights
    assert found.moved(0, 1024) == 0 < found.moved(2, 1024) < found.moved(None, 1024) == found.moved(31, 1024)
    assert found.on_gpu(1, 1024) > found.output  # the output comes first
    there = replace(WISH, gpus=("Vulkan0",))
    whole, moved = memory_plan(model, WISH, some(200), ALL), memory_plan(model, there, some(200), ALL)
    assert (whole.fits, moved.fits) == (False, True)
    assert moved.moved == found.moved(None, WISH.n_ctx)
    half = fit(model, replace(there, gpu_layers=16), some(155), SHRINKS)
    assert half.n_ctx < WISH.n_ctx
    with pytest.raises(OutOfMemory, match="of it on the GPU"):
        fit(model, replace(there, gpu_layers=16), some(155), ALL)


def test_what_fits_is_left_alone(model: InstalledModel) -> None:
    """Nothing is changed, and nothing proposed."""
    assert fit(model, WISH, some(400), SHRINKS) == WISH
    assert memory_plan(model, WISH, some(400), ALL).nearest == ()


def test_the_refusal_has_numbers_and_a_way_out(model: InstalledModel) -> None:
    """Each setting that is proposed would really fit."""
    with pytest.raises(OutOfMemory) as refused:
        fit(model, WISH, some(200), ALL)
    text = str(refused.value)
    assert "weights 97, KV cache of 4096 tokens 94, tokenizer 26" in text
    assert "200 MB may be used now" in text
    shorter, smaller = memory_plan(model, WISH, some(200), ALL).nearest
    assert (shorter.kv_type, smaller.kv_type) == ("f16", "q8_0")
    assert 512 <= shorter.n_ctx < smaller.n_ctx < 4096
    assert max(shorter.total, smaller.total) <= 200_000_000
    assert f"n_ctx={shorter.n_ctx}" in text


def test_the_profile_may_allow_a_smaller_context(
    model: InstalledModel, caplog: pytest.LogCaptureFixture
) -> None:
    """It is the longest that fits, and the log tells."""
    with caplog.at_level(logging.WARNING, "edgeai.devices"):
        found = fit(model, WISH, some(200), SHRINKS)
    assert found.n_ctx % 256 == 0
    taken = needs(model).at(found.n_ctx).total
    assert taken <= 200_000_000 < needs(model).at(found.n_ctx + 256).total
    assert f"n_ctx={found.n_ctx}" in caplog.text


def test_a_context_that_was_asked_for_is_not_changed(model: InstalledModel) -> None:
    """It is refused instead."""
    with pytest.raises(OutOfMemory):
        fit(model, WISH, some(200), SHRINKS, fixed=("n_ctx",))


def test_smaller_values(model: InstalledModel) -> None:
    """Where the profile allows that, keys and values are stored in 8 bits and the context stays."""
    assert fit(model, WISH, some(215), STORES) == DevicePlan(n_ctx=4096, n_threads=1, kv_type="q8_0")


def test_nothing_fits(model: InstalledModel) -> None:
    """Then a smaller model is the remedy."""
    with pytest.raises(OutOfMemory, match="take a smaller model"):
        fit(model, WISH, some(50), SHRINKS)


def test_an_edge_is_refused_before_it_loads(model: InstalledModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """With allow_large it is loaded all the same."""
    monkeypatch.setattr("edgeai.devices.probe.read_memory", lambda root: some(600))
    with pytest.raises(OutOfMemory, match="does not fit"):
        Edge(model.path, n_ctx=512)
    with Edge(model.path, n_ctx=512, allow_large=True) as edge:
        assert edge.info.n_ctx == 512


def test_values_in_eight_bits_judge_alike(model: InstalledModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine stores them so, in half the memory, and its probabilities hardly change."""
    found = {}
    for kv_type in KV_TYPES:
        small = DevicePlan(n_ctx=512, n_threads=1, kv_type=kv_type)
        monkeypatch.setattr("edgeai.load.device_plan", lambda *_, small=small, **__: small)
        engine = open_package(model)
        found[kv_type] = engine.score("The capital of France is", [" Paris", " London"])
        assert engine.memory()["kv_cache"] == needs(model).at(512, kv_type).kv_cache  # type: ignore[attr-defined]  # of our engines
        engine.close()
    assert found["q8_0"] != found["f16"]
    assert found["q8_0"] == pytest.approx(found["f16"], abs=0.3)


def test_the_profile_sets_context_and_threads(tmp_path: Path) -> None:
    """The default context is the profile's; a battery, heat or the goal cap the threads."""
    kiosk = choose("intel-n100-kiosk", probe())
    assert plan(None, 8192, profile=kiosk).n_ctx == 2048
    assert plan(None, 1024, profile=kiosk).n_ctx == 1024
    laptop = choose("laptop-8gb", probe())
    unplugged = probe(plant(tmp_path / "a", {**MACHINES["generic"], **battery("Discharging", 50)}))
    capped = plan(None, 8192, profile=laptop, machine=unplugged)
    assert capped.n_threads <= 2
    assert plan(None, 8192, threads=5, profile=laptop, machine=unplugged).n_threads == 5


def test_battery_and_heat_cap_threads(tmp_path: Path) -> None:
    """Eight fast cores: all of them, four on battery or with that goal, and when hot."""
    profile = choose("snapdragon-x-elite", probe())

    def threads(**trees: str | None) -> int:
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        machine = probe(plant(root, arm([1024] * 8) | memory(32, 20) | trees))
        return plan(None, 8192, profile=profile, machine=machine).n_threads

    tmp_path.mkdir(exist_ok=True)
    assert threads() == 8
    assert threads(**battery("Discharging", 50)) == 4
    assert threads(**battery("Charging", 50)) == 8
    assert threads(**zone("cpu-thermal", 91)) == 4
    assert threads(**zone("cpu-thermal", 60)) == 8
    calm = probe(plant(tmp_path / "calm", arm([1024] * 8) | memory(32, 20)))
    assert plan(None, 8192, profile=profile, machine=calm, goal="battery").n_threads == 4


def test_on_battery_the_providers_are_the_batterys(
    model: InstalledModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with that goal, whatever goal was given."""
    profile = choose("snapdragon-x-elite", probe())
    goals: list[str] = []

    def placed(
        _model: object, _plan: object, _wish: object, _profile: object, goal: str, _: object
    ) -> Placed:
        goals.append(goal)
        return Placed()

    monkeypatch.setattr("edgeai.devices.gpus.place", placed)
    for number, state in enumerate(("Discharging", "Charging")):
        machine = probe(plant(tmp_path / str(number), arm([1024] * 8) | memory(32, 20) | battery(state, 50)))
        place(model, plan(512, 8192), Wish(), profile, "speed", machine)
    assert goals == ["battery", "speed"]


def test_heat_without_a_number_of_the_profile(tmp_path: Path) -> None:
    """Then the system's own limit counts; without either nothing is hot."""
    generic = choose("generic", probe())
    assert is_hot(generic, probe(plant(tmp_path / "a", zone("x86_pkg_temp", 96, 95))))
    assert not is_hot(generic, probe(plant(tmp_path / "b", zone("x86_pkg_temp", 96))))


def test_a_goal_there_is_none_of(model: InstalledModel) -> None:
    """It is refused, as is an unknown profile."""
    with pytest.raises(ConfigError, match="Use one of speed, battery"):
        Edge(model.path, goal="sped")  # type: ignore[arg-type]  # the point
    with pytest.raises(ConfigError, match="no device profile"):
        Edge(model.path, profile="toaster")


def test_too_many_parameters_is_another_error() -> None:
    """One is about this machine now, the other about what the SDK is for."""
    assert not issubclass(OutOfMemory, ModelTooLarge)
