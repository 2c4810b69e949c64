"""`edgeai tune` on the real model, with measurements cut short."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from edgeai import Edge
from edgeai.cli.exits import Exit
from edgeai.devices import tune
from edgeai.devices.tune import Sample
from edgeai.engines import DevicePlan, Engine
from edgeai.engines.llamacpp.engine import LlamaCppEngine
from tests.cli.conftest import Run

ID = "smollm2-135m-instruct@llamacpp-q4_1"


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch, model_path: Path) -> None:
    """Batches of 64 are fast; what is measured is made up, the rest is real."""

    def measure(open_engine: Callable[[DevicePlan], Engine], plan: DevicePlan) -> Sample:
        return Sample(query_s=1.0 if plan.n_ubatch == 64 else 1.5, others=0.0)

    monkeypatch.setattr(tune, "measure", measure)


@pytest.mark.usefixtures("_quick")
def test_tuned_shown_used_and_forgotten(run: Run) -> None:
    """The table says what was chosen; the next load has it; forgotten, it is shown no more."""
    done = run("tune", ID)
    assert (done.code, done.err.count("measuring")) == (0, done.err.count("\n"))
    assert ["n_ubatch", "64", "256: 1.50, 64: 1.00"] in [line.split("\t") for line in done.out.splitlines()]
    with Edge(ID, n_ctx=256, ledger=False) as edge:
        engine = edge._session.engine
        assert isinstance(engine, LlamaCppEngine)
        assert engine._context.n_ubatch == 64
    [shown] = json.loads(run("tune", "--show", "--json").out)
    assert (shown["model"], shown["complete"]) == (ID, True)
    assert "forgotten" in run("tune", ID, "--forget").out
    assert "nothing was kept" in run("tune", ID, "--forget").out
    assert "Nothing is tuned" in run("tune", "--show").out


def test_stopped_and_gone_on_with(run: Run, model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C after the first settings: what was chosen is kept, not used, and not measured again."""
    seen: list[DevicePlan] = []

    def stopping(open_engine: Callable[[DevicePlan], Engine], plan: DevicePlan) -> Sample:
        if plan.flash_attn is False and len(seen) < 99:
            raise KeyboardInterrupt
        seen.append(plan)
        return Sample(query_s=1.0, others=0.0)

    monkeypatch.setattr(tune, "measure", stopping)
    stopped = run("tune", ID)
    assert stopped.code == Exit.STOPPED
    assert "goes on" in stopped.err
    assert "unfinished" in run("tune", "--show").out
    seen += [DevicePlan(n_ctx=1, n_threads=1)] * 99
    before = len(seen)
    assert run("tune", ID).code == 0
    assert len(seen) - before == 2 * tune.REPEATS  # attention; the threads and the batch were known


def test_it_measures_in_this_process_and_without_guesses(
    run: Run, model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process of its own would count as another program; guesses would make answers too easy."""
    seen: list[tuple[object, bool]] = []

    def measure(open_engine: Callable[[DevicePlan], Engine], plan: DevicePlan) -> Sample:
        assert isinstance(open_engine, partial)
        seen.append((open_engine.keywords["isolation"], plan.speculate))
        return Sample(query_s=1.0, others=0.0)

    monkeypatch.setattr(tune, "measure", measure)
    assert run("tune", ID).code == 0
    assert set(seen) == {("thread", False)}


def test_a_busy_machine(run: Run, model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused with the reason, and nothing is kept."""
    monkeypatch.setattr(tune, "measure", lambda *_: Sample(query_s=1.0, others=0.7))
    refused = run("tune", ID)
    assert refused.code == Exit.MODEL
    assert "too busy" in refused.err
    assert "Nothing is tuned" in run("tune", "--show").out
