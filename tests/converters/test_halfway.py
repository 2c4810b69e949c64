"""A conversion by calibration that is interrupted goes on, and ends as if it had not been."""

import os
import time
from pathlib import Path

import pytest

from edgeai.converters import Gates, Stage, Trial, rounding, sensitivity
from edgeai.converters.formats import Form
from edgeai.converters.halfway import Halfway, halfway
from edgeai.converters.toolchain import convert
from edgeai.errors import GateFailed
from edgeai.paths import cache_dir
from tests.tiny_gguf import write_tiny_gguf

QUICK = Trial(tokens=64, window=64, speed=False)
LOOSE = Gates(max_kl=50.0, min_agreement=0.0)
LAYERS = 4


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A word for each layer that is rounded or measured; little text, which is enough to see it."""
    done: list[str] = []
    for module, name, word in ((rounding, "_layer", "rounded"), (sensitivity, "_with_site", "measured")):
        inner = getattr(module, name)

        def counting(*args: object, inner: object = inner, word: str = word) -> object:
            if word == "rounded" or args[2] == "qkv":  # the first of a layer's groups
                done.append(word)
            return inner(*args)  # type: ignore[operator]  # one of the two functions

        monkeypatch.setattr(module, name, counting)
    monkeypatch.setattr("edgeai.converters.fewer_bits._WINDOWS", 2)
    monkeypatch.setattr("edgeai.converters.fewer_bits._WINDOW", 64)
    return done


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tiny GGUF file of four layers."""
    return write_tiny_gguf(tmp_path / "tiny.gguf", n_layer=LAYERS)


def files(folder: Path) -> dict[str, bytes]:
    """What a package is, but for its proof."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "proof.json"}


def kept() -> list[Path]:
    """Folders of conversions that are not at their end."""
    return list((cache_dir() / "conversions").glob("*"))


@pytest.mark.parametrize(
    ("to", "quant", "step", "at", "left"),
    [
        ("onnx", "awq", "convert", 1, {"rounded": LAYERS - 1}),
        ("onnx", "gptq", "convert", 3, {"rounded": LAYERS - 3}),
        ("onnx", "mixed", "convert", 2, {"rounded": LAYERS - 2, "measured": LAYERS}),
        ("onnx", "mixed", "convert", LAYERS + 3, {"rounded": 0, "measured": LAYERS - 3}),
        ("gguf", "mixed", "prove", 0, {"rounded": 0, "measured": 0}),
        ("onnx", "int8_dynamic", "convert", 2, {"measured": LAYERS - 2}),
    ],
)
def test_an_interrupted_conversion_goes_on(
    to: Form, quant: str, step: str, at: int, left: dict[str, int], source: Path, work: list[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    """Only the layers that are left are computed, and the package is the same, byte for byte."""
    convert(source, tmp_path / "whole", to=to, quant=quant, test=QUICK, gates=LOOSE)
    assert kept() == []

    def interrupt(stage: Stage) -> None:
        if stage.step == step and stage.done >= at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out", to=to, quant=quant, test=QUICK, gates=LOOSE, tell=interrupt)
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.gguf", "whole", "edgeai-home"}
    assert len(kept()) == 1
    work.clear()
    convert(source, tmp_path / "out", to=to, quant=quant, test=QUICK, gates=LOOSE)
    assert {word: work.count(word) for word in left} == left
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert kept() == []


def test_what_was_damaged_meanwhile_does_not_count(source: Path, work: list[str], tmp_path: Path) -> None:
    """A flipped bit, in a layer or in what was measured, and it is made again, the same as ever."""
    convert(source, tmp_path / "whole", to="onnx", quant="mixed", test=QUICK, gates=LOOSE)

    def interrupt(stage: Stage) -> None:
        if stage.done == LAYERS + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out", to="onnx", quant="mixed", test=QUICK, gates=LOOSE, tell=interrupt)
    [folder] = kept()
    for path in (folder / "layer-0001" / "up.codes.npy", *folder.glob("costs.*")):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    assert list(Halfway(folder).known()) == []
    assert Halfway(folder).costs() is None
    work.clear()
    convert(source, tmp_path / "out", to="onnx", quant="mixed", test=QUICK, gates=LOOSE)
    assert work == ["rounded"] * LAYERS + ["measured"] * LAYERS
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_a_missed_gate_is_an_end(source: Path, work: list[str], tmp_path: Path) -> None:
    """The conversion was done; nothing of it stays."""
    with pytest.raises(GateFailed):
        convert(source, tmp_path / "out", to="onnx", quant="gptq", test=QUICK, gates=Gates(max_kl=0.0))
    assert work
    assert kept() == []


def test_what_nobody_goes_on_with_is_deleted() -> None:
    """After a month, by the next conversion of any model; what is younger stays."""
    folder = cache_dir() / "conversions"
    for name, age_s in (("old", 31 * 86400), ("young", 86400)):
        (folder / name).mkdir(parents=True)
        os.utime(folder / name, (time.time() - age_s,) * 2)
    with halfway({"source": "another"}):
        assert [path.name for path in folder.iterdir()] == ["young"]
