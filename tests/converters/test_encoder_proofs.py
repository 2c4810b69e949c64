"""What an encoder's proof measures, and what its gates refuse; `make test-converters` runs these."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("optimum.exporters.onnx")
pytest.importorskip("all_minilm_l6_v2")

from edgeai.cli import main
from edgeai.converters import encoder_package, npu_variants
from edgeai.converters.encoder import Encoder
from edgeai.converters.optimum_export import export_encoder
from edgeai.converters.safetensors_file import open_folder
from edgeai.converters.timing import Speed
from edgeai.models.package import Manifest, write_manifest
from tests.converters.damage import assert_refused
from tests.converters.encoders import unpack
from tests.converters.folders import write_safetensors
from tests.converters.tiny_encoders import write_encoder

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]  # theirs; a real model

LAYERS = ("encoder.layer.0.", "encoder.layer.1.")


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(tmp_path_factory.mktemp("source") / "all-MiniLM-L6-v2")


@pytest.fixture
def sources(minilm: Path, tmp_path: Path) -> dict[str, Path]:
    """A real encoder, and tiny ones: with rotary positions, and with labels."""
    return {
        "real": minilm,
        "rotary": write_encoder(tmp_path / "sources" / "rotary", "modernbert"),
        "labels": write_encoder(tmp_path / "sources" / "labels", "distilbert", labels=True),
    }


def rewrite(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    tensors = {
        name: np.ascontiguousarray(tensor.floats())
        for name, tensor in open_folder(folder).items()
        if tensor.kind == "F32"
    }
    write_safetensors(folder / "model.safetensors", change(tensors))


def zero_layer(folder: Path) -> None:
    """One layer adds nothing any more."""
    rewrite(
        folder,
        lambda tensors: {
            name: np.zeros_like(values) if name.startswith(LAYERS[0]) and "dense" in name else values
            for name, values in tensors.items()
        },
    )


def swap_layers(folder: Path) -> None:
    """Two layers in each other's place."""

    def other(name: str) -> str:
        one, two = LAYERS
        return name.replace(one, two) if name.startswith(one) else name.replace(two, one)

    rewrite(folder, lambda tensors: {other(name): values for name, values in tensors.items()})


def wrong_rope(folder: Path) -> None:
    """The bases of the rotary embeddings."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    bases = {"global_rope_theta": 500.0, "local_rope_theta": 30.0}
    (folder / "config.json").write_text(json.dumps(config | bases), "utf-8")


def swap_labels(folder: Path) -> None:
    """The head's rows in another order."""
    rewrite(
        folder,
        lambda tensors: {
            name: values[::-1] if name.startswith("classifier") else values
            for name, values in tensors.items()
        },
    )


@pytest.mark.parametrize(
    ("name", "damage", "says"),
    [
        ("real", zero_layer, "embeddings are others"),
        ("real", swap_layers, "embeddings are others"),
        ("rotary", wrong_rope, "embeddings are others"),
        ("labels", swap_labels, "labels are others"),
    ],
)
def test_a_damaged_encoder_is_refused_with_its_reason(
    name: str,
    damage: Callable[[Path], None],
    says: str,
    sources: dict[str, Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is exported is another model than what it is compared with; nothing is left."""

    def damaged(source: Encoder, folder: Path, **shape: Any) -> Path:  # noqa: ANN401  # as it was
        shutil.copytree(source.path, tmp_path / "damaged")
        damage(tmp_path / "damaged")
        return export_encoder(replace(source, path=tmp_path / "damaged"), folder, **shape)

    monkeypatch.setattr(encoder_package, "export_encoder", damaged)
    words = ["convert", str(sources[name]), "--to", "onnx"]
    assert_refused(words, tmp_path / "made" / "out", says, capfd)


def test_an_encoder_with_a_shifted_tokenizer_is_refused(
    minilm: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package's own, not the source's."""

    def shifted(folder: Path, manifest: Manifest) -> None:
        content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        vocab = content["model"]["vocab"]
        names = [name for name in vocab if not name.startswith("[")]
        ids = [vocab[name] for name in names]
        vocab |= dict(zip(names, [*ids[1:], ids[0]], strict=True))
        (folder / "tokenizer.json").write_text(json.dumps(content), "utf-8")
        write_manifest(folder, manifest)

    monkeypatch.setattr(encoder_package, "write_manifest", shifted)
    words = ["convert", str(minilm), "--to", "onnx"]
    assert_refused(words, tmp_path / "made" / "out", "tokenizer gives other ids", capfd)


def test_a_damaged_graph_for_npus_is_refused(
    minilm: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it does what its own floats do, and the main graph is whole."""

    def damaged(source: Encoder, folder: Path, **shape: Any) -> Path:  # noqa: ANN401  # as it was
        shutil.copytree(source.path, tmp_path / "damaged")
        swap_layers(tmp_path / "damaged")
        return export_encoder(replace(source, path=tmp_path / "damaged"), folder, **shape)

    monkeypatch.setattr(npu_variants, "export_encoder", damaged)
    words = ["convert", str(minilm), "--to", "onnx", "--npu", "a16w8"]
    assert_refused(words, tmp_path / "made" / "out", "its graph for NPUs is another model", capfd)


def test_what_an_encoder_takes_is_measured_and_shown(
    minilm: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Tokens read a second, seconds to load, memory; what of a graph for NPUs stays in 16 bits."""
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        main(["convert", str(minilm), "--to", "onnx", "--npu", "a8w8", "--min-speed", "1", "--out", str(out)])
    said = capfd.readouterr()
    assert not ended.value.code, said.err
    proof = json.loads((out / "proof.json").read_text("utf-8"))
    speed = proof["speed"]
    assert speed["decode_tps"] is None
    assert speed["prefill_tps"] > 1
    assert speed["load_s"] > 0
    assert speed["resident_bytes"] > 50e6
    gates = {gate["name"]: gate for gate in proof["gates"]}
    assert gates["speed"]["found"] == speed["prefill_tps"]
    assert gates["memory"]["found"] == speed["resident_bytes"]
    line = next(line for line in said.out.splitlines() if line.startswith("all-minilm"))
    assert f"{speed['prefill_tps']:.0f} tok/s" in line
    note = gates["npu a8w8 cosine"]["note"]
    assert note in line
    assert note == json.loads((out / "edgeai.json").read_text("utf-8"))["provenance"]["npu"]
    sixteen, inputs = (int(word) for word in note.split()[1:4:2])
    assert 0 < sixteen < inputs


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (("--min-speed", "1e9"), "it reads"),
        (("--max-memory", "300MB"), "bytes of memory"),
        (("--max-size", "1KB"), "bytes, at most"),
    ],
)
def test_an_encoder_that_misses_a_gate_is_refused(
    option: tuple[str, str],
    says: str,
    sources: dict[str, Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Too slow, too much memory (which was estimated to be less), too large."""
    speed = Speed(load_s=1.0, prefill_tps=1e3, decode_tps=None, resident_bytes=301_000_000)
    monkeypatch.setattr(encoder_package, "measure", lambda *_, **__: speed)
    words = ["convert", str(sources["rotary"]), "--to", "onnx", *option]
    assert_refused(words, tmp_path / "made" / "out", says, capfd)
