"""A search makes what fits, reuses what it made, and picks by the goal."""

from pathlib import Path

import pytest

from edgeai.converters import search as searching
from edgeai.converters.gates import Gates
from edgeai.converters.origin import open_origin
from edgeai.converters.proof import Trial
from edgeai.converters.search import frontier, search
from edgeai.converters.toolchain import Stage
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
    assert read_manifest(tmp_path / "out").id == found.chosen.package == "tiny@llamacpp-f16"
    sizes = [row.proof.size for row in frontier(found.rows)]
    assert sizes == sorted(sizes)
    assert not list((cache_dir() / "searches").iterdir())

    from edgeai.cli.frontier import draw

    draw(found.rows, found.chosen, tmp_path / "plot.svg")
    assert "q4_0" in (tmp_path / "plot.svg").read_text() or (tmp_path / "plot.svg").stat().st_size > 5000


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


def test_no_format_that_keeps_the_gates(source: Path, tmp_path: Path) -> None:
    """An error with all proofs, and no package."""
    with pytest.raises(GateFailed, match="No format") as caught:
        search(source, tmp_path / "out", to="onnx", gates=Gates(max_size=10), test=QUICK)
    assert isinstance(caught.value.proof, tuple)
    assert len(caught.value.proof) == len(searching._candidates(open_origin(source), "onnx"))
    assert not (tmp_path / "out").exists()
