"""Every way with the default model's own weights: what is whole is made, alike each time; damage is not."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeai.cli import main
from edgeai.converters import make as making
from edgeai.converters.formats import Form
from edgeai.converters.graph import Progress
from edgeai.converters.proof import Trial
from edgeai.converters.toolchain import convert
from edgeai.errors import GateFailed
from edgeai.models.disk import hash_file
from tests.converters.damage import DAMAGES, Damage, assert_refused, damaging, without_speeds
from tests.converters.test_toolchain import (
    lose_template,
    replace_once,
    shift_tokens,
    swap_layers,
    zero_layer,
)

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]

BRIEF = Trial(tokens=512, window=256, speed=False)
BASE = 100_000.0


@pytest.fixture(scope="module")
def hf_folder(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model as a Hugging Face folder, by the command line."""
    return command(model_path, tmp_path_factory.mktemp("hf") / "folder", "hf", "bf16")


def command(source: Path, out: Path, to: Form, quant: str) -> Path:
    """What `edgeai convert` makes, which must succeed."""
    words = ["convert", str(source), "--to", to, "--quant", quant, "--tokens", "512", "--out", str(out)]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code in (0, None)
    return out


def assert_proved(folder: Path, most: float) -> None:
    """The gate on KL was in force and kept, and what is left of the model is near."""
    proof = json.loads((folder / "proof.json").read_text("utf-8"))
    assert "kl" in {gate["name"] for gate in proof["gates"]}
    assert all(gate["reason"] is None for gate in proof["gates"])
    assert proof["divergence"]["kl_mean"] < most


@pytest.mark.parametrize(
    ("to", "quant", "most"),
    [("onnx", "int8", 0.02), ("gguf", "q8_0", 0.02), ("gguf", "q4_k_m", 0.15), ("hf", "f16", 0.02)],
)
def test_a_gguf_file_becomes_each_form(
    to: Form, quant: str, most: float, model_path: Path, tmp_path: Path
) -> None:
    """GGUF to ONNX, to GGUF, to a Hugging Face folder."""
    assert_proved(command(model_path, tmp_path / "out", to, quant), most)


@pytest.mark.parametrize(
    ("to", "quant", "most"), [("onnx", "int8", 0.02), ("gguf", "q8_0", 0.02), ("gguf", "iq4_nl", 0.45)]
)
def test_a_folder_becomes_each_package(
    to: Form, quant: str, most: float, hf_folder: Path, tmp_path: Path
) -> None:
    """Hugging Face to ONNX, to GGUF."""
    assert_proved(hf_folder, 0.02)
    assert_proved(command(hf_folder, tmp_path / "out", to, quant), most)


@pytest.mark.parametrize(
    ("to", "quant"), [("gguf", "q8_0"), ("gguf", "q4_k_m"), ("onnx", "int8"), ("onnx", "int4")]
)
def test_converting_twice_gives_the_same_bytes(
    to: Form, quant: str, model_path: Path, tmp_path: Path
) -> None:
    """All files but the proof's, importance matrices included."""
    made = [convert(model_path, tmp_path / name, to=to, quant=quant, test=BRIEF).folder for name in "ab"]
    one, other = ({path.name: hash_file(path) for path in folder.iterdir()} for folder in made)
    assert len(one) > 2
    assert one | {"proof.json": ""} == other | {"proof.json": ""}


def wrong_rope(path: Path) -> None:
    """A tenth of the base of the rotary embedding."""
    key = b"llama.rope.freq_base" + (6).to_bytes(4, "little")
    replace_once(path, key + np.float32(BASE).tobytes(), key + np.float32(BASE / 10).tobytes())


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (zero_layer, "next tokens"),
        (swap_layers, "next tokens"),
        (wrong_rope, "next tokens"),
        (shift_tokens, "tokenizer gives other ids"),
        (lose_template, "template is lost"),
    ],
)
def test_damage_is_refused_with_its_reason(
    damage: Callable[[Path], None],
    says: str,
    model_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the gates that nobody set; nothing is left."""
    honest = making._requantize

    def damaged(origin: Path, target: Path, kind: str, progress: Progress, importance: None) -> None:
        honest(origin, target, kind, progress, importance)
        damage(target)

    monkeypatch.setattr(making, "_requantize", damaged)
    with pytest.raises(GateFailed) as caught:
        convert(model_path, tmp_path / "made" / "out", to="gguf", quant="q8_0", test=BRIEF)
    assert says in str(caught.value)
    assert not (tmp_path / "made").exists() or not list((tmp_path / "made").iterdir())


@pytest.mark.parametrize(("to", "quant"), [("onnx", "int8"), ("onnx", "int4"), ("hf", "bf16")])
@pytest.mark.parametrize(("damage", "reason"), DAMAGES)
def test_damage_of_every_form_is_refused_by_the_command(
    damage: Damage,
    reason: str,
    to: str,
    quant: str,
    model_path: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exit code 1, the table, the reason, and nothing left: of ONNX packages, and of folders."""
    without_speeds(monkeypatch)
    words = ["convert", str(model_path), "--to", to, "--quant", quant, "--tokens", "512"]
    with damaging(damage):
        assert_refused(words, tmp_path / "made" / "out", reason, capfd)
