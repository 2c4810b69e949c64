"""A search makes what fits, reuses what it made, and picks by the goal."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeai.converters import picking as searching
from edgeai.converters import toolchain
from edgeai.converters.divergence import Divergence
from edgeai.converters.formats import format_of
from edgeai.converters.gates import Gate, Gates
from edgeai.converters.origin import open_origin
from edgeai.converters.picking import AS_GOOD, Row, best, frontier, search
from edgeai.converters.proof import Proof, Trial
from edgeai.converters.stages import Stage
from edgeai.converters.timing import Speed
from edgeai.errors import GateFailed
from edgeai.models.package import read_manifest
from edgeai.paths import cache_dir
from tests.tiny_gguf import write_tiny_gguf

QUICK = Trial(tokens=64, window=64, speed=False)
LOOSE = Gates(max_kl=50.0, min_agreement=0.0)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tiny GGUF file."""
    return write_tiny_gguf(tmp_path / "tiny.gguf")


def test_the_best_quality_wins_and_a_plot_shows_why(source: Path, tmp_path: Path) -> None:
    """All formats of the form are rows; the frontier falls in KL as it grows in size."""
    found = search(source, tmp_path / "out", to="gguf", gates=LOOSE, test=QUICK)
    assert {row.proof.package.rpartition("-")[2] for row in found.rows} >= {"f16", "q8_0", "q4_0", "iq4_nl"}
    assert read_manifest(tmp_path / "out").id == found.chosen.package == "tiny@llamacpp-q8_0", (
        "f16 is no better"
    )
    on = frontier(found.rows, speed=False)
    assert [row.proof.size for row in on] == sorted(row.proof.size for row in on)
    losses = [row.proof.divergence.kl_mean for row in on if row.proof.divergence is not None]
    assert losses == sorted(losses, reverse=True)
    assert set(map(id, on)) <= set(map(id, frontier(found.rows)))
    kept = {path.name for path in (cache_dir() / "searches").rglob("*") if path.is_file()}
    assert kept == {"done", "proof.json"}, "no weights are left behind"

    from edgeai.cli.frontier import draw

    draw(found.rows, found.chosen, tmp_path / "plot.svg")
    assert "q4_0" in (tmp_path / "plot.svg").read_text() or (tmp_path / "plot.svg").stat().st_size > 5000


def test_what_is_far_too_large_is_not_made(source: Path, tmp_path: Path) -> None:
    """It is told why, in place of a proof."""
    with pytest.raises(GateFailed, match="it would have about") as caught:
        search(source, tmp_path / "out", to="onnx", gates=Gates(max_size=10), test=QUICK)
    assert caught.value.proof == ()


def row(name: str, size: int, kl: float, tps: float = 10.0, *, kept: bool = True) -> Row:
    """A row as a search makes it."""
    divergence = Divergence(
        tokens=9, kl_mean=kl, kl_p99=kl, kl_max=kl, agreement=1.0, source_perplexity=9.0, perplexity=9.0
    )
    gate = Gate(name="kl", found=kl, bound=9.0, reason=None if kept else "no")
    speed = Speed(load_s=1.0, prefill_tps=1.0, decode_tps=tps, resident_bytes=1)
    proof = Proof(
        package=name, reference="", text_sha256="", size=size, source_size=1, divergence=divergence,
        task=None, speed=speed, source_speed=None, gates=(gate,), machine="", versions={},
    )  # fmt: skip
    return Row(form=format_of("gguf", "q8_0"), folder=Path(name), proof=proof)


ROWS = st.lists(
    st.builds(
        row,
        st.text("abc", min_size=1),
        st.integers(1, 9),
        st.sampled_from([0.0, 0.001, 0.004, 0.02, 0.3]),
        st.sampled_from([1.0, 2.0, 3.0]),
        kept=st.booleans(),
    ),
    max_size=8,
)


@given(ROWS)
def test_what_is_chosen_keeps_the_gates_and_no_other_is_better(rows: list[Row]) -> None:
    """Quality: none is nearer than a rounding, nor smaller and as good. Speed: none is faster."""
    good = [one for one in rows if one.proof.passed]
    for goal in ("quality", "speed"):
        chosen = best(rows, goal)
        assert (chosen is None) == (not good)
        if chosen is None:
            continue
        assert chosen in good
        if goal == "speed":
            assert all(kl_and_speed(one)[1] <= kl_and_speed(chosen)[1] for one in good)
            continue
        assert all(kl_and_speed(chosen)[0] <= kl_and_speed(one)[0] + AS_GOOD for one in good)
        near = [one for one in good if kl_and_speed(one)[0] <= kl_and_speed(chosen)[0]]
        assert all(chosen.proof.size <= one.proof.size for one in near)


def kl_and_speed(one: Row) -> tuple[float, float]:
    """What the goals compare."""
    assert one.proof.divergence is not None
    assert one.proof.speed is not None
    return one.proof.divergence.kl_mean, one.proof.speed.pace


def test_a_format_that_keeps_the_pace_comes_before_a_better_one() -> None:
    """Where none does, the best is chosen all the same."""
    rows = [row("near", 9, 0.0, 5.0), row("fast", 5, 0.1, 18.0)]
    chosen = {pace: best(rows, "quality", pace) for pace in (None, 20.0, 99.0)}
    assert {pace: found and found.proof.package for pace, found in chosen.items()} == {
        None: "near", 20.0: "fast", 99.0: "near",
    }  # fmt: skip


def test_a_disturbed_speed_does_not_exclude_a_format() -> None:
    """Nobody knows whether it keeps the pace."""
    near = row("near", 9, 0.0, 5.0)
    assert near.proof.speed is not None
    disturbed = replace(near, proof=replace(near.proof, speed=replace(near.proof.speed, others=1.0)))
    found = best([disturbed, row("fast", 5, 0.1, 30.0)], "quality", 20.0)
    assert found is disturbed


@given(ROWS)
def test_the_frontier_has_whatever_no_other_beats(rows: list[Row]) -> None:
    """Each row is on it, or one on it is neither larger nor further away."""
    on = frontier(rows)
    for one in rows:
        kl, size = kl_and_speed(one)[0], one.proof.size
        assert any(other.proof.size <= size and kl_and_speed(other)[0] <= kl for other in on)


def test_the_frontier_has_what_is_clearly_faster() -> None:
    """Though another one is smaller and nearer; a few tokens more a second are chance."""
    near, fast, chance = row("near", 5, 0.1, 10.0), row("fast", 9, 0.2, 30.0), row("chance", 9, 0.2, 11.0)
    assert frontier([near, fast, chance]) == (near, fast)
    assert frontier([near, fast, chance], speed=False) == (near,)


def test_an_interrupted_search_goes_on(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was made is not made again, and is judged by the gates of the day."""
    proved: list[str] = []

    def interrupt(stage: Stage) -> None:
        if stage.step == "measure":
            proved.append(stage.what)
            if len(proved) == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(source, tmp_path / "out", to="gguf", gates=LOOSE, test=QUICK, tell=interrupt)
    first = proved[:2]
    found = search(source, tmp_path / "out", to="gguf", gates=LOOSE, test=QUICK, tell=interrupt)
    assert not set(first) & set(proved[3:])
    assert {row.proof.package.rpartition("-")[2] for row in found.rows} >= set(first)


def test_another_goal_uses_the_proofs_and_makes_one_package(source: Path, tmp_path: Path) -> None:
    """The second search converts what it chose, and nothing else; it is the same package."""
    first = search(source, tmp_path / "first", to="gguf", gates=LOOSE, test=QUICK)
    made: list[str] = []

    def hear(stage: Stage) -> None:
        if stage.step == "prove" and stage.what not in made:
            made.append(stage.what)

    again = search(source, tmp_path / "again", to="gguf", gates=LOOSE, test=QUICK, tell=hear)
    assert made == [again.chosen.package.rpartition("-")[2]]
    assert again.chosen.package == first.chosen.package
    for file in (tmp_path / "first").iterdir():
        if file.name != "proof.json":
            assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
    other = search(source, tmp_path / "named", to="gguf", name="mine", gates=LOOSE, test=QUICK)
    assert other.chosen.package.startswith("mine@"), "a kept proof of another name is not this one's"


def test_disturbed_speeds_are_measured_again_where_they_decide(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search for speed that goes on does not believe what was measured beside others."""
    measured: list[str] = []

    def busy(path: Path, *, n_ctx: int) -> Speed:
        measured.append(path.parent.parent.name)
        return Speed(load_s=1.0, prefill_tps=1.0, decode_tps=1.0, resident_bytes=1, others=1.5)

    monkeypatch.setattr(toolchain, "measure", busy)
    trial = replace(QUICK, speed=True)

    def stop(stage: Stage) -> None:
        if stage.what == "q6_k":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(source, tmp_path / "out", to="gguf", goal="speed", gates=LOOSE, test=trial, tell=stop)
    before = measured.count("gguf-q8_0")
    search(source, tmp_path / "out", to="gguf", goal="speed", gates=LOOSE, test=trial)
    assert measured.count("gguf-q8_0") == before + 1


def test_no_format_that_keeps_the_gates(source: Path, tmp_path: Path) -> None:
    """An error with all proofs, and no package."""
    with pytest.raises(GateFailed, match="No format") as caught:
        search(source, tmp_path / "out", to="onnx", gates=Gates(max_kl=-1.0), test=QUICK)
    assert isinstance(caught.value.proof, tuple)
    assert len(caught.value.proof) == len(searching._candidates(open_origin(source), "onnx"))
    assert not (tmp_path / "out").exists()
