"""The search among settings, with made-up speeds; what is kept of it, and when it is used again."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgeai.devices import tuning as tunings
from edgeai.devices.plan import plan
from edgeai.devices.tune import Knob, Sample, knobs, measure, search
from edgeai.devices.tuning import Choice, Tuning, Value, circumstances, forget, kept, recall, remember
from edgeai.engines import DevicePlan
from edgeai.engines.llamacpp import open_engine
from edgeai.errors import DiskFull, EngineLoadFailed, StoreError
from edgeai.models import store

PLAN = DevicePlan(n_ctx=256, n_threads=4)
TODO = (
    Knob(name="n_threads", values=(4, 2, 1)),
    Knob(name="n_ubatch", values=(256, 64)),
    Knob(name="flash_attn", values=(True, False)),
)
EMPTY = Tuning(model="m@llamacpp-q4_1", circumstances={"cpu": "x"})


def machine(others: float | None = 0.0) -> Callable[[DevicePlan], Sample]:
    """Two threads are best; small batches are 1 % faster, which is not clear."""

    def sample(plan: DevicePlan) -> Sample:
        seconds = {4: 1.3, 2: 1.0, 1: 5.0}[plan.n_threads] * (0.99 if plan.n_ubatch == 64 else 1)
        return Sample(query_s=seconds * (1.2 if plan.flash_attn is False else 1), others=others)

    return sample


def quietly(done: int, total: int) -> None:
    """Shows no progress."""


def settings(tuning: Tuning) -> dict[str, Value]:
    """The choices by name."""
    return {choice.name: choice.value for choice in tuning.choices}


def test_the_best_is_chosen_where_it_is_clear() -> None:
    """One setting after another; the usual value stays unless another is clearly faster."""
    *_, found = search(EMPTY, TODO, PLAN, machine(), progress=quietly)
    assert found.complete
    assert settings(found) == {"n_threads": 2, "n_ubatch": 256, "flash_attn": True}
    assert found.apply(PLAN).n_threads == 2


def test_later_settings_are_measured_with_earlier_choices_and_hopeless_values_once() -> None:
    """The batch is tried with two threads, and the five times slower thread was tried once."""
    seen: list[DevicePlan] = []

    def sample(plan: DevicePlan) -> Sample:
        seen.append(plan)
        return machine()(plan)

    list(search(EMPTY, TODO, PLAN, sample, progress=quietly))
    assert [plan.n_threads for plan in seen[:7]] == [4, 2, 1, 4, 2, 4, 2]
    assert {plan.n_threads for plan in seen[7:]} == {2}
    assert len(seen) == 7 + 6 + 6


def test_a_provider_is_chosen_first_and_the_rest_is_measured_on_it() -> None:
    """Its fields go into every later plan, and into those of a run that goes on."""
    fields: dict[str, dict[str, object]] = {
        "cpu": {"provider": "cpu"},
        "vulkan": {"provider": "vulkan", "gpus": ("Vulkan0",)},
    }
    todo = knobs("llamacpp", "q4_1", 4, providers=fields)
    seen: list[DevicePlan] = []

    def sample(plan: DevicePlan) -> Sample:
        seen.append(plan)
        return Sample(query_s=1.0 if plan.gpus else 2.0, others=0.0)

    found = next(search(EMPTY, todo, PLAN, sample, progress=quietly))
    assert found.provider == "vulkan"
    assert found.apply(PLAN).provider == "cpu", "where it runs is decided when it is loaded"
    seen.clear()
    list(search(found, todo, PLAN, sample, progress=quietly))
    assert {plan.gpus for plan in seen} == {("Vulkan0",)}
    gone = knobs("llamacpp", "q4_1", 4)
    assert next(search(found, gone, PLAN, sample, progress=quietly)).provider is None, "the GPU is gone"


def test_what_has_one_value_is_not_measured() -> None:
    """It is a choice all the same, and says that nothing was tried."""
    seen: list[DevicePlan] = []
    todo = (Knob(name="provider", values=("cpu",)), Knob(name="n_threads", values=(1,)))
    *_, found = search(EMPTY, todo, PLAN, lambda plan: seen.append(plan) or Sample(query_s=1.0, others=0.0),  # type: ignore[func-returns-value]  # a spy
                       progress=quietly)  # fmt: skip
    assert (found.complete, seen) == (True, [])
    assert all(choice.query_s == {} for choice in found.choices)


def test_progress_ends() -> None:
    """It grows to the total, whatever was left out."""
    steps: list[tuple[int, int]] = []
    list(search(EMPTY, TODO, PLAN, machine(), progress=lambda *step: steps.append(step)))
    assert steps == sorted(steps)
    assert steps[-1] == (21, 21)


def test_a_busy_machine_decides_nothing() -> None:
    """While others use most of a core, no choice is made; where nobody knows, it is."""
    with pytest.raises(StoreError, match=r"0\.8 cores"):
        next(search(EMPTY, TODO, PLAN, machine(0.8), progress=quietly))
    assert next(search(EMPTY, TODO, PLAN, machine(None), progress=quietly)).choices


def test_what_was_measured_is_not_measured_again() -> None:
    """Stopped after one choice, the search goes on with the second; time that is up stops it, too."""
    first = next(search(EMPTY, TODO, PLAN, machine(), progress=quietly))
    assert not first.complete
    later = list(search(first, TODO, PLAN, machine(), progress=quietly))
    assert [len(found.choices) for found in later] == [2, 3]
    ticks = iter(range(0, 100, 15))
    short = list(search(EMPTY, TODO, PLAN, machine(), progress=quietly, clock=lambda: next(ticks)))
    assert [found.complete for found in short] == [False]


def test_values_that_cannot_be_are_left_out() -> None:
    """A cache that the engine refuses is no choice; but a refusal of what is usual is told."""

    def refuses(name: str) -> Callable[[DevicePlan], Sample]:
        def sample(plan: DevicePlan) -> Sample:
            if plan.kv_type == name:
                raise EngineLoadFailed("no such cache")
            return machine()(replace(plan, n_threads=2))

        return sample

    todo = [Knob(name="kv_type", values=("f16", "q8_0"))]
    (found,) = search(EMPTY, todo, PLAN, refuses("q8_0"), progress=quietly)
    assert settings(found) == {"kv_type": "f16"}
    with pytest.raises(EngineLoadFailed):
        next(search(EMPTY, todo, PLAN, refuses("f16"), progress=quietly))


@pytest.mark.parametrize("engine", ["llamacpp", "onnx"])
@pytest.mark.parametrize("n_threads", [1, 2, 8])
def test_the_first_value_is_the_plans_own(engine: str, n_threads: int) -> None:
    """So that nothing changes without a reason; what changes answers is tried on demand only."""
    for knob in knobs(engine, "f16", n_threads):
        usual = getattr(DevicePlan(n_ctx=1, n_threads=n_threads), knob.name)
        assert usual in (knob.values[0], None)
        assert len(set(knob.values)) == len(knob.values)
        assert knob.name != "kv_type"
    assert knobs("llamacpp", "q4_1", n_threads, lossy=True)[-1].values == ("f16", "q8_0")


def test_packing_of_integer_weights_is_no_question() -> None:
    """Without it they are 20 times slower, which need not be measured."""
    assert "prepack" not in [knob.name for knob in knobs("onnx", "int8", 2)]


def choice(name: str, value: Value) -> Choice:
    """A choice without figures."""
    return Choice(name=name, value=value, query_s={})


def test_kept_for_these_circumstances(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recalled when complete, on the same machine with the same versions and weights; forgotten on demand."""
    model = store.find(model_path)
    tuning = Tuning(model=model.id, circumstances=circumstances(model), choices=(choice("n_ubatch", 64),))
    assert recall(model) is None
    remember(tuning)
    assert recall(model) is None
    assert recall(model, drafts=True) == tuning
    remember(replace(tuning, complete=True))
    assert recall(model) == replace(tuning, complete=True)
    assert kept() == (replace(tuning, complete=True),)
    assert plan(None, 2048, tuning=recall(model)).n_ubatch == 64
    with monkeypatch.context() as patch:
        patch.setattr(tunings, "_PACKAGES", {"llamacpp": "onnxruntime"})  # another version
        assert recall(model) is None
    assert forget(model.id)
    assert not forget(model.id)
    assert kept() == ()


@pytest.mark.parametrize("value", ["64", True, -1, 0, None, 6.5])
def test_a_file_with_nonsense_is_not_used(model_path: Path, value: object) -> None:
    """Whatever was written there by hand, the engine gets only what it can have."""
    model = store.find(model_path)
    remember(Tuning(model=model.id, circumstances=circumstances(model), complete=True))
    (file,) = tunings._folder().glob("*.json")
    raw = json.loads(file.read_text())
    raw["choices"] = [{"name": "n_ubatch", "value": value, "query_s": {}}]
    file.write_text(json.dumps(raw))
    assert recall(model) is None


def test_no_room_for_it(model_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A data folder that cannot be written is told, with what to do."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEAI_HOME", str(tmp_path / "file"))
    with pytest.raises(DiskFull, match="EDGEAI_HOME"):
        remember(EMPTY)


def test_an_exact_plan_and_threads_of_ones_own() -> None:
    """Under a contract the cache keeps its precision; who fixes the threads has them."""
    tuning = EMPTY
    for made in (choice("kv_type", "q8_0"), choice("n_threads", 2), choice("n_ubatch", 64)):
        tuning = tuning.with_choice(made)
    assert plan(None, 2048, tuning=tuning).kv_type == "q8_0"
    exact = plan(None, 2048, tuning=tuning, threads=3, exact=True)
    assert (exact.kv_type, exact.n_threads, exact.n_ubatch, exact.follow_load) == ("f16", 3, 64, False)
    assert tuning.with_choice(choice("kv_type", "f16")).apply(PLAN).kv_type == "f16"


@pytest.mark.parametrize(
    "changes", [{}, {"n_ubatch": 32}, {"flash_attn": False}, {"flash_attn": True, "kv_type": "q8_0"}]
)
def test_the_engine_takes_all_of_it(model_path: Path, changes: dict[str, Value]) -> None:
    """Each setting loads and answers, in a finite time, on the real model."""
    trial = replace(DevicePlan(n_ctx=512, n_threads=1, follow_load=False), **changes)  # type: ignore[arg-type]
    found = measure(lambda plan: open_engine(model_path, plan, name="m"), trial)
    assert 0 < found.query_s < 600


def test_what_was_the_only_one_is_measured_when_there_are_others() -> None:
    """A tuning without a GPU says nothing of one that comes later, and does not forbid it."""
    alone = (Knob(name="provider", values=("cpu",)), Knob(name="n_threads", values=(1,)))
    *_, found = search(EMPTY, alone, PLAN, machine(), progress=quietly)
    assert found.provider is None
    both = (
        Knob(name="provider", values=("cpu", "gpu"), fields={"cpu": {}, "gpu": {"n_threads": 2}}),
        alone[1],
    )
    seen: list[int] = []

    def sample(plan: DevicePlan) -> Sample:
        seen.append(plan.n_threads)
        return Sample(query_s=1.0 if plan.n_threads == 2 else 2.0, others=0.0)

    *_, later = search(found, both, PLAN, sample, progress=quietly)
    assert (later.provider, len(seen)) == ("gpu", 6)
