"""Checkpoints that others quantized are read as their formats define them.

The packers here place field by field, as the formats are described; they share nothing with the reader.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeai.converters.decoder import Matrix
from edgeai.converters.gates import Gates
from edgeai.converters.onnx_package import export, open_source
from edgeai.converters.origin import open_origin
from edgeai.converters.packed_words import Words
from edgeai.converters.proof import Trial
from edgeai.converters.safetensors_file import open_folder
from edgeai.converters.toolchain import convert
from edgeai.errors import EdgeError, ModelCorrupt, ModelUnsupported
from tests.converters.folders import write_hf

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Parts = dict[str, NDArray[Any]]
Packer = Callable[["Drawn"], Parts]

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False, "desc_act": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
WEIGHTS = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": 32}


def compressed(**changed: object) -> dict[str, Any]:
    """What llmcompressor writes into `config.json`."""
    group = {"targets": ["Linear"], "weights": WEIGHTS | changed, "input_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


class Drawn:
    """A matrix in numbers that were drawn: codes (outputs, inputs), zeros and scales (outputs, groups)."""

    def __init__(self, shape: tuple[int, ...], said: dict[str, Any], seed: int) -> None:
        random = np.random.default_rng(seed)
        weights = said["config_groups"]["group_0"]["weights"] if "config_groups" in said else said
        self.bits = int(weights["num_bits"] if "num_bits" in weights else weights["bits"])
        n_inputs = shape[1]
        size = n_inputs if weights["group_size"] in (-1, None) else weights["group_size"]
        self.groups: Ints = np.arange(n_inputs) // size
        if said.get("desc_act"):
            random.shuffle(self.groups)
        n_groups, top = -(-n_inputs // size), 2**self.bits
        self.codes: Ints = random.integers(0, top, shape)
        self.zeros: Ints = random.integers(1, top, (shape[0], n_groups))
        if weights.get("sym") or weights.get("symmetric"):
            self.zeros[:] = top // 2
        self.scales = random.uniform(0.01, 0.04, (shape[0], n_groups)).astype(np.float16)

    def weights(self) -> Floats:
        """By definition, one column after the other."""
        found = np.empty(self.codes.shape, np.float32)
        for column, group in enumerate(self.groups):
            steps = self.codes[:, column] - self.zeros[:, group]
            found[:, column] = self.scales[:, group].astype(np.float32) * steps
        return found


def words(values: Ints, bits: int, order: tuple[int, ...] | None = None) -> NDArray[np.int32]:
    """The last axis in words of 32 bits: the i-th field of a word holds its neighbour ``order[i]``."""
    per = 32 // bits
    order = order or tuple(range(per))
    padded = np.pad(values, ((0, 0), (0, -values.shape[1] % per)))
    found = np.zeros((len(padded), padded.shape[1] // per), np.int64)
    for field, neighbour in enumerate(order):
        found += padded[:, neighbour::per] << (bits * field)
    return found.astype(np.uint32).view(np.int32)


def gptq(drawn: Drawn, less: int = 1) -> Parts:
    """Inputs first; words run along the inputs, those of zero points along the outputs."""
    zeros = (drawn.zeros.T - less) % 2**drawn.bits
    return {
        "qweight": words(drawn.codes, drawn.bits).T,
        "qzeros": words(zeros, drawn.bits),
        "scales": drawn.scales.T,
        "g_idx": drawn.groups.astype(np.int32),
    }


def gptq_v2(drawn: Drawn) -> Parts:
    """The zero points as they are."""
    return gptq(drawn, less=0)


def awq(drawn: Drawn) -> Parts:
    """Inputs first; all words run along the outputs, even neighbours before odd ones."""
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    return {
        "qweight": words(drawn.codes.T, 4, order),
        "qzeros": words(drawn.zeros.T, 4, order),
        "scales": drawn.scales.T,
    }


def pack_quantized(drawn: Drawn) -> Parts:
    """Outputs first; words of zero points run along the outputs."""
    return {
        "weight_packed": words(drawn.codes, drawn.bits),
        "weight_zero_point": words(drawn.zeros.T, drawn.bits).T,
        "weight_scale": drawn.scales,
        "weight_shape": np.array(drawn.codes.shape, np.int64),
    }


CHECKPOINTS: dict[str, tuple[dict[str, Any], Packer, str]] = {
    "gptq": (GPTQ, gptq, "U4"),
    "gptq, symmetric": (GPTQ | {"sym": True}, gptq, "Q4_0"),
    "gptq, second version": (GPTQ | {"checkpoint_format": "gptq_v2"}, gptq_v2, "U4"),
    "gptq, columns in another order": (GPTQ | {"desc_act": True}, gptq, "4 bits in groups"),
    "gptq, small groups": (GPTQ | {"group_size": 16}, gptq, "4 bits in groups"),
    "gptq, whole rows": (GPTQ | {"group_size": -1}, gptq, "U4"),
    "gptq, eight bits": (GPTQ | {"bits": 8, "sym": True}, gptq, "Q8_0"),
    "gptq, two bits": (GPTQ | {"bits": 2}, gptq, "2 bits in groups"),
    "awq": (AWQ, awq, "U4"),
    "compressed-tensors": (compressed(), pack_quantized, "U4"),
    "compressed-tensors, symmetric": (compressed(symmetric=True), pack_quantized, "Q4_0"),
    "compressed-tensors, a scale for each row": (
        compressed(strategy="channel", group_size=None, num_bits=8), pack_quantized, "U8",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in floats."""
    return write_hf(tmp_path_factory.mktemp("plain") / "m", "llama")


def write_checkpoint(plain: Path, folder: Path, name: str) -> dict[str, Floats]:
    """The plain model with other layers, which are packed; the weights that those stand for, by name."""
    said, pack, _ = CHECKPOINTS[name]
    shutil.copytree(plain, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": said}))
    tensors: dict[str, NDArray[Any]] = {}
    weights: dict[str, Floats] = {}
    for i, (key, tensor) in enumerate(open_folder(folder).items()):
        if not key.endswith("_proj.weight"):
            tensors[key] = tensor.floats().copy()
            continue
        drawn = Drawn(tensor.shape, said, i)
        weights[key] = drawn.weights()
        tensors |= {f"{key.removesuffix('.weight')}.{part}": values for part, values in pack(drawn).items()}
    write_tensors(folder / "model.safetensors", tensors)
    return weights


def write_tensors(path: Path, tensors: dict[str, NDArray[Any]]) -> None:
    """The safetensors format, by hand."""
    types = {"float32": "F32", "float16": "F16", "int32": "I32", "int64": "I64"}
    header, data = {}, b""
    for name, values in tensors.items():
        raw = np.ascontiguousarray(values).tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": types[values.dtype.name], "shape": values.shape, "data_offsets": offsets}
        data += raw
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    path.unlink()  # the old file is mapped
    path.write_bytes(len(head).to_bytes(8, "little") + head + data)


def whole(matrix: Matrix | None) -> Floats:
    """All rows as floats, read in uneven pieces."""
    assert matrix is not None
    pieces = [matrix.rows(i, min(i + 13, matrix.shape[0])) for i in range(0, matrix.shape[0], 13)]
    return np.concatenate([p if isinstance(p, np.ndarray) else p.floats() for p in pieces])


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_weight_is_what_the_format_says(name: str, plain: Path, tmp_path: Path) -> None:
    """All matrices of a layer, to the last bit, and whether they can be carried over as blocks."""
    weights = write_checkpoint(plain, tmp_path / "m", name)
    source = open_source(tmp_path / "m")
    parts = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
    for role, part in parts.items():
        found = source.matrix(role, 1)
        np.testing.assert_array_equal(whole(found), weights[f"model.layers.1.{part}.weight"])
        assert found is not None
        assert found.kind == CHECKPOINTS[name][2]
    assert source.n_parameters == open_source(plain).n_parameters


def test_stacked_matrices_are_taken_apart(tmp_path: Path) -> None:
    """Phi 3's, of which each role gets its rows."""
    phi = write_hf(tmp_path / "plain", "phi3")
    weights = write_checkpoint(phi, tmp_path / "m", "gptq")
    source = open_source(tmp_path / "m")
    found = np.concatenate([whole(source.matrix(role, 0)) for role in "qkv"])
    np.testing.assert_array_equal(found, weights["model.layers.0.self_attn.qkv_proj.weight"])


def test_words_along_outputs_begin_anywhere() -> None:
    """Rows of a matrix need not begin where a word does."""
    codes = np.random.default_rng(0).integers(0, 16, (24, 5))
    packed = Words(raw=words(codes.T, 4).T, bits=4, along="outputs", places=tuple(range(8)))
    np.testing.assert_array_equal(packed.rows(3, 21), codes[3:21])


@pytest.mark.parametrize("name", ["gptq, symmetric", "awq"])
def test_codes_of_a_checkpoint_stay_as_they_are(name: str, plain: Path, tmp_path: Path) -> None:
    """Nothing is rounded on the way into an ONNX package, and its proof says so."""
    write_checkpoint(plain, tmp_path / "m", name)
    made = convert(
        tmp_path / "m", tmp_path / "out", to="onnx", quant="exact", gates=Gates(min_agreement=0.8),
        test=Trial(tokens=96, window=96, speed=False),
    )  # fmt: skip
    assert made.manifest is not None
    assert "groups of 32" in made.manifest.provenance["source_quantization"]
    rows = json.loads((tmp_path / "out" / "conversion.json").read_text())["weights"]
    layers = [row for row in rows if row["tensors"] not in ("embed", "head")]
    assert {row["target"] for row in layers} == {"int4+zero" if name == "awq" else "int4"}
    assert max(row["max_abs_error"] for row in layers) < 1e-7
    assert open_origin(tmp_path / "m").quantized


@pytest.mark.parametrize("name", ["gptq, symmetric", "awq"])
def test_codes_of_a_checkpoint_are_blocks_of_a_gguf_file(name: str, plain: Path, tmp_path: Path) -> None:
    """Symmetric ones bit for bit; a zero point becomes a minimum, which is a half-precision number."""
    weights = write_checkpoint(plain, tmp_path / "m", name)
    convert(
        tmp_path / "m", tmp_path / "out", to="gguf", quant="exact", gates=Gates(min_agreement=0.8),
        test=Trial(tokens=96, window=96, speed=False),
    )  # fmt: skip
    source = open_source(tmp_path / "out" / "model.gguf")
    for role, part in {"q": "self_attn.q_proj", "down": "mlp.down_proj"}.items():
        found = source.matrix(role, 1)
        assert found is not None
        assert found.kind == ("Q4_1" if name == "awq" else "Q4_0")
        error = np.abs(whole(found) - weights[f"model.layers.1.{part}.weight"]).max()
        assert error < (3e-4 if name == "awq" else 1e-9)


def test_a_checkpoint_runs_as_its_floats(plain: Path, tmp_path: Path) -> None:
    """The graph of the packed folder is the graph of a folder with the same weights in floats."""
    weights = write_checkpoint(plain, tmp_path / "m", "awq")
    export(tmp_path / "m", tmp_path / "a", quant="f32")
    shutil.copytree(plain, tmp_path / "p")
    others = {name: tensor.floats().copy() for name, tensor in open_folder(plain).items()}
    write_tensors(tmp_path / "p" / "model.safetensors", others | weights)
    export(tmp_path / "p", tmp_path / "b", quant="f32")
    one, other = (tmp_path / name / "model.onnx.data" for name in "ab")
    assert one.read_bytes() == other.read_bytes()


def without(part: str) -> Callable[[Path], None]:
    """Lose all tensors of a kind."""

    def lose(folder: Path) -> None:
        tensors = {name: tensor.raw.copy() for name, tensor in open_folder(folder).items()}
        kept = {name: values for name, values in tensors.items() if not name.endswith(part)}
        write_tensors(folder / "model.safetensors", kept)

    return lose


def says(**changed: object) -> Callable[[Path], None]:
    """Change the configuration; None takes an entry away."""

    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        said = {k: v for k, v in (config["quantization_config"] | changed).items() if v is not None}
        (folder / "config.json").write_text(json.dumps(config | {"quantization_config": said}))

    return change


def no_word_of_it(folder: Path) -> None:
    """A configuration of plain weights."""
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("name", "damage", "error", "reason"),
    [
        ("gptq", says(quant_method="bitsandbytes"), ModelUnsupported, "bitsandbytes"),
        ("gptq", says(bits=3), ModelUnsupported, "3 bits"),
        ("gptq", says(bits="four"), ModelCorrupt, "four"),
        ("gptq", says(bits=8), ModelCorrupt, "do not fit"),
        ("gptq", says(group_size=None), ModelCorrupt, "group_size"),
        ("gptq", says(group_size=0), ModelCorrupt, "group"),
        ("gptq", says(checkpoint_format="marlin"), ModelUnsupported, "marlin"),
        ("gptq", says(dynamic={"+:.*q_proj": {"bits": 8}}), ModelUnsupported, "q_proj"),
        ("gptq", without(".qzeros"), ModelCorrupt, "no qzeros"),
        ("gptq", without(".scales"), ModelCorrupt, "no scales"),
        ("gptq", without(".qweight"), ModelCorrupt, "no packed matrix"),
        ("gptq", no_word_of_it, ModelUnsupported, "whole numbers"),
        ("gptq, symmetric", says(checkpoint_format="gptq_v2"), ModelCorrupt, "not the middle"),
        ("awq", says(version="gemv"), ModelUnsupported, "gemv"),
        ("awq", says(group_size=64), ModelCorrupt, "groups"),
        ("compressed-tensors", says(format="nvfp4-pack-quantized"), ModelUnsupported, "nvfp4"),
        ("compressed-tensors", says(config_groups={}), ModelUnsupported, "several"),
        ("compressed-tensors", says(kv_cache_scheme={"num_bits": 8}), ModelUnsupported, "kv_cache"),
        ("compressed-tensors", without(".weight_shape"), ModelCorrupt, "weight_shape"),
    ],
)
def test_what_cannot_be_read_is_named(
    name: str,
    damage: Callable[[Path], None],
    error: type[EdgeError],
    reason: str,
    plain: Path,
    tmp_path: Path,
) -> None:
    """A typed error before anything is converted."""
    write_checkpoint(plain, tmp_path / "m", name)
    damage(tmp_path / "m")
    with pytest.raises(error) as caught:
        open_source(tmp_path / "m")
    assert reason in str(caught.value)
