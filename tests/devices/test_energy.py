from pathlib import Path

import pytest

from edgeai import Edge
from edgeai.devices.energy import Energy, Integral, Meter, Rapl, find_meter
from edgeai.ledger import Ledger
from tests.devices.trees import Tree, battery, plant

ZONE = "sys/class/powercap/intel-rapl:0"


def rapl(micro_j: int) -> Tree:
    """A package's counter, and that of its cores, which is part of it."""
    return {
        f"{ZONE}/name": "package-0",
        f"{ZONE}/energy_uj": f"{micro_j}",
        f"{ZONE}/max_energy_range_uj": "1000000000",
        f"{ZONE}:0/name": "core",
        f"{ZONE}:0/energy_uj": "5",
    }


def test_rapl_counts_packages(tmp_path: Path) -> None:
    """What the package used; a counter that began anew goes on."""
    counter = Rapl(plant(tmp_path, rapl(999_000_000)))
    assert counter() == 0
    plant(tmp_path, rapl(999_500_000))
    assert counter() == pytest.approx(0.5)
    plant(tmp_path, rapl(500_000))
    assert counter() == pytest.approx(1.5)


def test_queries_at_once_share() -> None:
    """Two that overlap divide what is counted while both run, and nothing is lost or counted twice."""
    joules = iter([0.0, 1.0, 3.0, 7.0, 9.0])
    meter = Meter(lambda: next(joules), "rapl")
    first = meter.begin()  # at 1 J
    second = meter.begin()  # at 3 J: the first alone used 2
    assert first.end() == Energy(joules=2 + 2, source="rapl")
    assert second.end() == Energy(joules=2 + 2, source="rapl")
    assert first.end() is None


def test_a_meter_that_falls_silent() -> None:
    """Is no measurement: None, not zero."""
    readings = iter([0.0, 1.0, None])
    assert Meter(lambda: next(readings), "rapl").begin().end() is None


def test_watts_are_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten watts over two seconds are twenty joules."""
    now = iter([100.0, 102.0])
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    assert Integral(lambda: 10.0)() == 20


def test_the_best_meter_is_taken(tmp_path: Path) -> None:
    """RAPL before the battery, the battery before an estimate, and else none."""
    discharging = battery("Discharging", 50, micro_w=9_000_000)

    def source(name: str, tree: Tree, active_w: float | None = None) -> str | None:
        meter = find_meter(plant(tmp_path / name, tree), active_w=active_w)
        return None if meter is None else meter.source

    assert source("a", {**rapl(1), **discharging}, 5.0) == "rapl"
    assert source("b", discharging, 5.0) == "battery"
    assert source("c", battery("Charging", 50), 5.0) == "estimate"
    assert source("d", {}) is None


def test_an_answer_says_what_it_took(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An estimate is labelled, and the ledger keeps what was measured only."""
    for source, kept in (("estimate", None), ("rapl", 2.0)):
        joules = iter(range(0, 100, 2))
        meter = Meter(lambda joules=joules: next(joules), source)  # type: ignore[misc,arg-type]  # both are sources
        monkeypatch.setattr("edgeai.edge.open_meter", lambda profile, meter=meter: meter)
        book = Ledger.open(tmp_path / f"{source}.sqlite3")
        with Edge(model_path, n_ctx=512, ledger=book) as edge:
            answer = edge.ask("Hi", max_tokens=2)
            assert (answer.energy_j, answer.energy_source) == (2.0, source)
            [row] = book.rows()
            assert row.energy_j == kept


def test_without_a_meter_it_is_unknown(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None, never zero."""
    monkeypatch.setattr("edgeai.edge.open_meter", lambda profile: None)
    with Edge(model_path, n_ctx=512, ledger=False) as edge:
        answer = edge.ask("Hi", max_tokens=2)
    assert (answer.energy_j, answer.energy_source) == (None, None)
