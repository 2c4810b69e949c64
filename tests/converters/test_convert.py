"""Conversions become whole packages or nothing, and damaged sources are told apart."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import onnx
import pytest
import tokenizers
from numpy.typing import NDArray

from edgeai.converters.onnx_package import convert, export, open_source
from edgeai.errors import ConfigError, ModelCorrupt, ModelError, ModelNotFound, ModelUnsupported
from edgeai.models.package import read_manifest
from edgeai.models.shelf import find
from edgeai.paths import cache_dir
from tests.converters.graph_runner import GraphRunner
from tests.tiny_gguf import write_tiny_gguf

IDS = [[5, 40, 71, 12, 200, 9, 33, 150]]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tiny GGUF file."""
    return write_tiny_gguf(tmp_path / "tiny.gguf")


def names(folder: Path) -> set[str]:
    """What is in a folder."""
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_a_conversion_is_an_installed_package(source: Path) -> None:
    """The store finds it, its manifest fits, and progress counted all layers."""
    heard: list[tuple[int, int]] = []
    made = convert(source, "tiny", quant="int8", progress=lambda done, total: heard.append((done, total)))
    found = find("tiny@onnx-int8")
    assert found.path == made.folder / "model.onnx"
    assert made.manifest == read_manifest(made.folder)
    assert (made.manifest.engine, made.manifest.licence, made.manifest.context) == ("onnx", "apache-2.0", 512)
    assert heard == [(1, 2), (2, 2)]


def test_the_package_says_all_that_an_engine_needs(source: Path, tmp_path: Path) -> None:
    """Tokenizer, template, ends, the graph's contract, and the report, in one folder."""
    folder = export(source, tmp_path / "package").folder
    ends = json.loads((folder / "generation_config.json").read_text("utf-8"))
    assert ends == {"bos_token_id": 0, "eos_token_id": [2, 0]}
    assert "<|im_start|>" in (folder / "chat_template.jinja").read_text("utf-8")
    loaded = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert loaded.decode(loaded.encode("the ï 語").ids) == "the ï 語"
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts == {"edgeai.graph": "1", "edgeai.max_positions": "512", "edgeai.architecture": "llama"}
    report = json.loads((folder / "conversion.json").read_text("utf-8"))
    assert {row["tensors"] for row in report["weights"]} == {
        "embed",
        "q",
        "k",
        "v",
        "o",
        "gate",
        "up",
        "down",
    }


def test_the_same_source_gives_the_same_bytes(source: Path, tmp_path: Path) -> None:
    """A conversion is reproducible to the last bit, so that hashes mean something."""
    first, second = (export(source, tmp_path / name).manifest for name in ("a", "b"))
    assert first == second


def test_an_interrupt_leaves_nothing(source: Path, tmp_path: Path) -> None:
    """Ctrl-C in the middle: no package, no staging folder, no half file."""

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, "tiny", progress=interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(source, tmp_path / "out" / "package", progress=interrupt)
    assert not any("tiny" in name for name in names(cache_dir() / "models") | names(cache_dir() / "staging"))
    assert names(tmp_path / "out") == set()


def test_a_folder_that_exists_is_not_touched(source: Path, tmp_path: Path) -> None:
    """Export never overwrites."""
    (tmp_path / "package").mkdir()
    with pytest.raises(ConfigError, match="exists"):
        export(source, tmp_path / "package")
    assert names(tmp_path / "package") == set()


def cut(path: Path) -> None:
    """Lose the last third of the file."""
    os.truncate(path, path.stat().st_size * 2 // 3)


def scribble(path: Path) -> None:
    """Overwrite the header's counts."""
    with path.open("r+b") as file:
        file.seek(8)
        file.write(b"\xff" * 16)


@pytest.mark.parametrize("damage", [cut, scribble])
def test_a_damaged_gguf_file_is_refused(damage: Callable[[Path], None], source: Path, tmp_path: Path) -> None:
    """With a typed error and without a trace."""
    damage(source)
    with pytest.raises(ModelCorrupt):
        export(source, tmp_path / "package")
    assert not (tmp_path / "package").exists()


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    """A file whose hash nobody knows may hold anything."""
    path = write_tiny_gguf(tmp_path / "t.gguf")
    tensor = next(t for t in gguf.GGUFReader(path).tensors if t.name == "blk.1.ffn_up.weight")
    with path.open("r+b") as file:
        file.seek(int(tensor.data_offset))
        file.write(np.array([np.nan], np.float32).tobytes())
    with pytest.raises(ModelCorrupt, match="not numbers"):
        export(path, tmp_path / "package")


def write_folder(folder: Path, **changes: object) -> Path:
    """A Hugging Face folder with a tiny llama, its weights zero."""
    config = {
        "model_type": "llama",
        "hidden_size": 32,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "intermediate_size": 64,
        "vocab_size": 10,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
    } | changes
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    layer: dict[str, tuple[int, ...]] = {f"self_attn.{name}_proj": (32, 32) for name in "qkvo"}
    layer |= {"mlp.gate_proj": (64, 32), "mlp.up_proj": (64, 32), "mlp.down_proj": (32, 64)}
    layer |= {"input_layernorm": (32,), "post_attention_layernorm": (32,)}
    shapes = {f"model.layers.0.{name}.weight": shape for name, shape in layer.items()}
    shapes |= {"model.embed_tokens.weight": (10, 32), "model.norm.weight": (32,)}
    write_safetensors(
        folder / "model.safetensors", {name: np.zeros(s, np.float32) for name, s in shapes.items()}
    )
    model = {"type": "BPE", "vocab": {letter: i for i, letter in enumerate("abcdefghij")}, "merges": []}
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    return folder


def write_safetensors(path: Path, tensors: dict[str, NDArray[np.float32]]) -> None:
    """The format by hand."""
    header, offset = {}, 0
    for name, values in tensors.items():
        header[name] = {
            "dtype": "F32",
            "shape": values.shape,
            "data_offsets": [offset, offset + values.nbytes],
        }
        offset += values.nbytes
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + b"".join(v.tobytes() for v in tensors.values()))


def test_a_plain_folder_converts(tmp_path: Path) -> None:
    """The other tests' folder is sound until they damage it."""
    made = export(write_folder(tmp_path / "m"), tmp_path / "package")
    assert made.manifest.id == "m@onnx-int8"


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"model_type": "mamba"}, ModelUnsupported, "mamba"),
        ({"hidden_act": "relu2"}, ModelUnsupported, "relu2"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, ModelUnsupported, "mxfp4"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, ModelUnsupported, "yarn"),
        ({"num_attention_heads": 4}, ModelUnsupported, "16"),
        ({"num_hidden_layers": 2}, ModelCorrupt, "layer 1"),
        ({"intermediate_size": 48}, ModelCorrupt, "shape"),
        ({"hidden_size": "many"}, ModelCorrupt, "config.json"),
        ({"vocab_size": 9}, ModelCorrupt, "match"),
    ],
)
def test_what_cannot_be_converted_is_named(
    changes: dict[str, object], error: type[ModelError], says: str, tmp_path: Path
) -> None:
    """Unsupported or inconsistent, each with its reason."""
    with pytest.raises(error) as caught:
        export(write_folder(tmp_path / "m", **changes), tmp_path / "package")
    assert says in str(caught.value)


@pytest.mark.parametrize("keep", [4, 60, -1])
def test_a_truncated_safetensors_file_is_refused(keep: int, tmp_path: Path) -> None:
    """In its length, its header or its numbers."""
    weights = write_folder(tmp_path / "m") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(ModelCorrupt):
        open_source(tmp_path / "m")


@pytest.mark.parametrize("name", ["absent.gguf", "absent"])
def test_a_source_that_is_not_there(name: str, tmp_path: Path) -> None:
    """Says so."""
    with pytest.raises(ModelNotFound):
        open_source(tmp_path / name)


def test_an_index_may_not_leave_its_folder(tmp_path: Path) -> None:
    """A shard's name is a name, not a path."""
    folder = write_folder(tmp_path / "m")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"x": "../other.safetensors"}})
    )
    with pytest.raises(ModelCorrupt, match="outside"):
        open_source(folder)


def test_sequences_in_a_batch_do_not_touch_one_another(source: Path, tmp_path: Path) -> None:
    """Two sequences of different lengths, decoded together, answer as each alone."""
    folder = export(source, tmp_path / "package", quant="f32").folder
    alone = [GraphRunner(folder).run([IDS[0][:n]], 0, [n - 1])[0][0] for n in (3, 6)]
    both = GraphRunner(folder, batch=2)
    for n in range(6):  # the short one starts later
        past = [max(n - 3, 0), n]
        step, _ = both.run([[IDS[0][past[0]]], [IDS[0][n]]], past, [0, 1])
    np.testing.assert_allclose(step, alone, atol=1e-5)
