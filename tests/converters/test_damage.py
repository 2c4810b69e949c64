"""Damage in packages and in Hugging Face folders: the command refuses it, and says what is wrong."""

from pathlib import Path

import pytest

from edgeai.cli import main
from edgeai.converters import toolchain
from edgeai.converters.onnx_package import open_source
from tests.converters.damage import (
    DAMAGES,
    Damage,
    assert_refused,
    damaging,
    without_speeds,
    wrong_rope,
    zero_layer,
)
from tests.converters.folders import write_hf
from tests.tiny_gguf import write_tiny_gguf

BRIEF = ["--tokens", "96"]
WAYS = [("gguf", "onnx"), ("gguf", "hf"), ("hf", "onnx"), ("hf", "gguf")]


def written(kind: str, folder: Path) -> Path:
    """A tiny source; what it takes to make it lies beside it."""
    (folder / "source").mkdir()
    if kind == "hf":
        return write_hf(folder / "source" / "tiny", "llama")
    return write_tiny_gguf(folder / "source" / "tiny.gguf")


@pytest.fixture(autouse=True)
def _no_speeds(monkeypatch: pytest.MonkeyPatch) -> None:
    without_speeds(monkeypatch)


@pytest.mark.parametrize(("kind", "to"), WAYS)
@pytest.mark.parametrize(("damage", "says"), DAMAGES)
def test_damage_is_refused_with_its_reason(
    damage: Damage, says: str, kind: str, to: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """By the gates that nobody set; exit code 1, the table all the same, nothing left."""
    words = ["convert", str(written(kind, tmp_path)), "--to", to, "--quant", "f16", *BRIEF]
    with damaging(damage):
        assert_refused(words, tmp_path / "made" / "out", says, capfd)


@pytest.mark.parametrize("damage", [zero_layer, wrong_rope])
def test_a_damaged_graph_for_npus_is_refused(
    damage: Damage, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it does what its own floats do, and the main graph is whole."""
    source = write_tiny_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setattr(toolchain, "open_source", lambda path: damage(open_source(path)))
    words = ["convert", str(source), "--to", "onnx", "--quant", "f16", "--npu", "a16w8", *BRIEF]
    assert_refused(words, tmp_path / "made" / "out", "its graph for NPUs is another model", capfd)


@pytest.mark.parametrize(("kind", "to"), WAYS)
def test_what_is_whole_is_not_refused(kind: str, to: str, tmp_path: Path) -> None:
    """The same way, with no damage done."""
    source, out = written(kind, tmp_path), tmp_path / "out"
    with damaging(lambda source: source), pytest.raises(SystemExit) as ended:
        main(["convert", str(source), "--to", to, "--quant", "f16", *BRIEF, "--out", str(out)])
    assert not ended.value.code
    assert (out / "proof.json").is_file()
