"""A conversion that is stopped or refused leaves nothing behind, and says why by its exit code."""

import os
import signal
import sys
from pathlib import Path

import pytest

from edgeai.cli import main
from edgeai.cli.stopping import stopping
from edgeai.converters import toolchain
from edgeai.errors import MissingExtra
from tests.tiny_gguf import write_tiny_gguf


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tiny GGUF file."""
    return write_tiny_gguf(tmp_path / "tiny.gguf")


def run(*args: str | Path) -> int:
    """The exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(arg) for arg in args])
    return int(ended.value.code or 0)


def not_reached(*_: object, **__: object) -> None:
    """Stands for the work that must not begin."""
    raise AssertionError("the work began")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_no_draft_and_no_parent(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    """Neither `.x.*` beside the package, nor the folders that were made for it."""
    begun = list[bool]()

    def killed(*_: object, **__: object) -> None:
        begun.append(any((tmp_path / "a" / "b").glob(".c.*")))
        os.kill(os.getpid(), number)

    monkeypatch.setattr(toolchain, "make", killed)
    assert run("convert", source, "--quant", "q8_0", "--out", tmp_path / "a" / "b" / "c") == code
    assert begun == [True]
    assert source.is_file()
    assert not (tmp_path / "a").exists()


def test_the_handler_of_before_comes_back() -> None:
    """SIGTERM is ours in the block alone."""
    before = signal.getsignal(signal.SIGTERM)
    with stopping():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_folders_with_something_in_them_stay(source: Path, tmp_path: Path) -> None:
    """A missed gate takes away what was made for the package, and nothing else."""
    (tmp_path / "a").mkdir()
    args = ("convert", source, "--quant", "q4_0", "--max-kl", "0", "--tokens", "64")
    assert run(*args, "--out", tmp_path / "a" / "b" / "c") == 1
    assert list((tmp_path / "a").iterdir()) == []


@pytest.mark.parametrize("to", ["onnx", "gguf", "hf"])
def test_a_missing_engine_is_named_before_the_work(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    """The proof needs an engine for source and package: that is known from the start."""
    name = "edgeai.engines.llamacpp.binding" if to == "gguf" else "edgeai.engines.onnx.session"

    def absent(wanted: str) -> None:
        if wanted == name:
            raise MissingExtra("It is not installed", extra="onnx")

    monkeypatch.setattr(toolchain, "import_module", absent)
    monkeypatch.setattr(toolchain, "make", not_reached)
    with pytest.raises(MissingExtra):
        toolchain.convert(source, tmp_path / "out", to=to)  # type: ignore[arg-type]  # one of the three
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("plot", "said"),
    [("plot.txt", ".txt names no picture"), ("plot", "names no picture"), ("no/plot.svg", "no folder")],
)
def test_a_plot_that_cannot_be_written_is_refused_before_the_search(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    plot: str, said: str,
) -> None:  # fmt: skip
    """A search takes long; its plot is its last step."""
    monkeypatch.setattr("edgeai.converters.wishes.search", not_reached)
    assert run("convert", source, "--out", tmp_path / "out", "--plot", tmp_path / plot) == 2
    assert said in capsys.readouterr().err


def test_matplotlib_is_asked_for_before_the_search(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A search takes long; what draws it must be there from the start."""
    monkeypatch.setattr("edgeai.converters.wishes.search", not_reached)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert run("convert", source, "--out", tmp_path / "out", "--plot", tmp_path / "plot.svg") == 4
    assert "edgeai[calibrate]" in capsys.readouterr().err


def test_a_plot_of_no_search_is_refused(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one format there is nothing to draw."""
    args = ("convert", source, "--out", tmp_path / "out", "--quant", "q8_0", "--plot", tmp_path / "plot.svg")
    assert run(*args) == 2
    assert "what a search found" in capsys.readouterr().err


def test_a_folder_without_a_model_says_what_to_give(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file that lies in it, or what a model is."""
    monkeypatch.chdir(tmp_path)
    assert run("convert", ".", "--out", "out", "--quant", "q8_0") == 3
    assert "Give a file of it: tiny.gguf" in capsys.readouterr().err
    source.unlink()
    assert run("convert", ".", "--out", "out", "--quant", "q8_0") == 3
    assert "a folder with config.json" in capsys.readouterr().err


def test_progress_and_licence_of_a_folder(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tensors are counted up to the last while a Hugging Face folder is written; its licence is told."""
    from edgeai.converters.gguf_writer import write_gguf
    from edgeai.converters.hf_writer import write_folder
    from edgeai.converters.onnx_package import open_source
    from edgeai.engines.llamacpp.requantize import requantize

    told: dict[str, list[tuple[int, int]]] = {"gguf": [], "hf": [], "quantize": []}
    (tmp_path / "hf").mkdir()
    write_gguf(open_source(source), tmp_path / "f.gguf", "f32", lambda *now: told["gguf"].append(now))
    write_folder(open_source(source), tmp_path / "hf", "f32", lambda *now: told["hf"].append(now))
    requantize(
        source, tmp_path / "q.gguf", "q8_0", n_threads=1, progress=lambda *now: told["quantize"].append(now)
    )
    for name, steps in told.items():
        done, totals = zip(*steps, strict=True)
        assert totals == (totals[0],) * len(totals), name
        assert list(done) == sorted(done), name
        assert done[-1] == totals[0] > 4, name

    assert run("convert", source, "--to", "hf", "--out", tmp_path / "out", "--tokens", "64") == 0
    assert "its licence: apache-2.0" in capsys.readouterr().err
