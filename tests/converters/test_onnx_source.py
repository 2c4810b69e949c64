"""Weights come back from graphs as optimum and onnxruntime-genai name them; the rest is refused.

The graphs here have the exporters' names and operators and no sense; `tests/engines/onnx/test_exporters.py`
asks the exporters themselves.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeai.converters.decoder import Source
from edgeai.converters.linear import floats
from edgeai.converters.onnx_package import open_source
from edgeai.converters.origin import open_origin
from edgeai.converters.safetensors_file import open_folder
from edgeai.errors import EdgeError, ModelCorrupt, ModelUnsupported
from tests.converters.folders import write_hf

Weights = dict[str, NDArray[Any]]
HEADS, KV_HEADS, WIDTH = 4, 2, 64


class Drawing:
    """A graph that is being put together."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """An initializer."""
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(self, op: str, name: str, *inputs: str, **attributes: Any) -> None:  # noqa: ANN401  # onnx takes anything
        """An operation on something and its constants."""
        domain = "" if op in ("MatMul", "Add", "Gather", "Transpose", "Mul") else "com.microsoft"
        made = helper.make_node(op, list(inputs), [f"{name}/out"], name, domain=domain, **attributes)
        self.nodes.append(made)

    def save(self, folder: Path) -> None:
        """With the weights in a file of their own, as exporters do."""
        graph = helper.make_graph(self.nodes, "g", [], [], self.constants)
        onnx.save_model(
            helper.make_model(graph), folder / "model.onnx", save_as_external_data=True,
            location="model.onnx.data", size_threshold=512,
        )  # fmt: skip


def weights_of(folder: Path) -> Weights:
    """All tensors of a Hugging Face folder."""
    return {name: tensor.floats().copy() for name, tensor in open_folder(folder).items()}


def like_optimum(folder: Path, weights: Weights) -> None:
    """A MatMul for each matrix, turned round, whose constants have no names; `config.json` stays."""
    drawing, gemma = Drawing(), "gemma3" in (folder / "config.json").read_text()
    for i, (name, values) in enumerate(weights.items()):
        path = "/" + name.replace(".layers.", "/layers.").rpartition(".")[0].replace("layers.", "layers#")
        path = path.replace(".", "/").replace("layers#", "layers.").replace("//", "/")
        if name.endswith("embed_tokens.weight"):
            drawing.node("Gather", f"{path}/Gather", drawing.constant(name, values), "ids")
        elif name.endswith(".bias"):
            drawing.node("Add", f"{path}/Add", "x", drawing.constant(name, values))
        elif values.ndim == 2:
            drawing.node("MatMul", f"{path}/MatMul", "x", drawing.constant(f"onnx::MatMul_{i}", values.T))
        else:
            applied = values + np.float32(gemma)  # folders have Gemma's less one
            drawing.node("Mul", f"{path}/Mul_1", "x", drawing.constant(f"onnx::Mul_{i}", applied))
    drawing.save(folder)
    (folder / "model.safetensors").unlink()


def like_genai(folder: Path, weights: Weights, *, bits: int = 32, scaled: float = 1.0) -> None:
    """Queries, keys and values stacked; the head's matrix is the embedding; hyper-parameters in the graph."""
    drawing = Drawing()
    for i in range(6):
        layer, ours = f"/model/layers.{i}", f"model.layers.{i}"
        for kind in ("weight", "bias"):
            parts = [weights.get(f"{ours}.self_attn.{part}_proj.{kind}") for part in "qkv"]
            if parts[0] is not None:
                stacked = np.concatenate([part for part in parts if part is not None])
                weights[f"{ours}.self_attn.qkv_proj.{kind}"] = stacked
        product(drawing, f"{layer}/attn/qkv_proj", weights[f"{ours}.self_attn.qkv_proj.weight"], bits)
        if f"{ours}.self_attn.qkv_proj.bias" in weights:
            bias = drawing.constant(f"{ours}.b", weights[f"{ours}.self_attn.qkv_proj.bias"])
            drawing.node("Add", f"{layer}/attn/qkv_proj/Add", "x", bias)
        attributes = {"num_heads": HEADS, "kv_num_heads": KV_HEADS, "do_rotary": 1, "scale": 0.25}
        tables = ("", "", "cos_cache", "sin_cache")
        drawing.node("GroupQueryAttention", f"{layer}/attn/GroupQueryAttention", "x", *tables, **attributes)
        product(drawing, f"{layer}/attn/o_proj", weights[f"{ours}.self_attn.o_proj.weight"], bits)
        for part in ("gate", "up", "down"):
            product(drawing, f"{layer}/mlp/{part}_proj", weights[f"{ours}.mlp.{part}_proj.weight"], bits)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            name = drawing.constant(f"{ours}.{norm}.weight", weights[f"{ours}.{norm}.weight"])
            drawing.node("SkipSimplifiedLayerNormalization", f"{layer}/{norm}", "x", "y", name, epsilon=1e-5)
    last = drawing.constant("model.layers.6.final_norm_layernorm.weight", weights["model.norm.weight"])
    norm = "/model/layers.6/final_norm_layernorm/SkipLayerNorm"
    drawing.node("SkipSimplifiedLayerNormalization", norm, "x", "y", last, epsilon=1e-5)
    head = product(drawing, "/lm_head", weights["model.embed_tokens.weight"], bits)
    turned = "Transpose" if bits == 32 else "Reshape"
    drawing.node(turned, "/model/embed_tokens/Turn", head)
    gather = "Gather" if bits == 32 else "GatherBlockQuantized"
    drawing.node(gather, f"/model/embed_tokens/{gather}", "/model/embed_tokens/Turn/out", "ids")
    angles = np.arange(256)[:, None] * scaled * 10000.0 ** (-np.arange(0, 16, 2) / 16)
    drawing.constant("cos_cache", np.cos(angles).astype(np.float32))
    drawing.constant("sin_cache", np.sin(angles).astype(np.float32))
    drawing.save(folder)
    for name in ("model.safetensors", "config.json"):
        (folder / name).unlink()
    said = {"head_size": 16, "hidden_size": WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": 6}
    model = {"type": "qwen2", "context_length": 256, "vocab_size": len(weights["model.embed_tokens.weight"])}
    content = {"model": model | {"decoder": said | {"num_key_value_heads": KV_HEADS}, "eos_token_id": [2, 0]}}
    (folder / "genai_config.json").write_text(json.dumps(content))


def product(drawing: Drawing, path: str, values: NDArray[Any], bits: int) -> str:
    """A matrix as it is, or in blocks of 32 with zero points; ``values`` become what the blocks say."""
    if bits == 32:
        name = drawing.constant(f"{path}.weight", values.T)
        drawing.node("MatMul", f"{path}/MatMul", "x", name)
        return name
    rows, columns = values.shape
    blocks = values.reshape(rows, -1, 32)
    scale = np.ptp(blocks, axis=2) / 15
    zero = np.rint(-blocks.min(axis=2) / scale).clip(0, 15).astype(np.uint8)
    codes = (np.rint(blocks / scale[..., None]) + zero[..., None]).clip(0, 15).astype(np.uint8)
    values[:] = ((codes.astype(np.float32) - zero[..., None]) * scale[..., None]).reshape(rows, columns)
    padded = np.pad(zero, ((0, 0), (0, zero.shape[1] % 2)))
    name = drawing.constant(f"{path}.Q4", codes[..., 0::2] | (codes[..., 1::2] << 4))
    scales = drawing.constant(f"{path}.scales", scale)
    zeros = drawing.constant(f"{path}.zeros", padded[:, 0::2] | (padded[:, 1::2] << 4))
    attributes = {"K": columns, "N": rows, "bits": 4, "block_size": 32}
    drawing.node("MatMulNBits", f"{path}/MatMul_Q4", "x", name, scales, zeros, **attributes)
    return name


def assert_same(ours: Source, weights: Weights) -> None:
    """All roles of a layer, the embedding and the norms."""
    attention, mlp = "model.layers.1.self_attn", "model.layers.1.mlp"
    names = {part: f"{attention}.{part}_proj" for part in "qkvo"}
    names |= {part: f"{mlp}.{part}_proj" for part in ("gate", "up", "down")}
    for role, name in names.items():
        found = ours.matrix(role, 1)
        assert found is not None
        if f"{attention}.qkv_proj.weight" not in weights or role not in "qkv":
            np.testing.assert_allclose(floats(found), weights[f"{name}.weight"], rtol=1e-5, atol=1e-7)
    for role in "qkv":
        bias, theirs = ours.vector(f"{role}_bias", 1), weights.get(f"{attention}.{role}_proj.bias")
        assert (bias is None) == (theirs is None)
        if bias is not None and theirs is not None:
            np.testing.assert_array_equal(bias, theirs)
    embed, norm = ours.matrix("embed"), ours.vector("final_norm")
    assert embed is not None
    assert norm is not None
    np.testing.assert_allclose(floats(embed), weights["model.embed_tokens.weight"], rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(norm, weights["model.norm.weight"])


def roles_of(source: Source) -> Weights:
    """All that a layer has, the embedding and the last norm, by role."""
    layer = ("q", "k", "v", "o", "gate", "up", "down")
    found = {role: m for role in layer if (m := source.matrix(role, 1)) is not None}
    weights: Weights = {role: floats(matrix).copy() for role, matrix in found.items()}
    for role in ("attn_norm", "ffn_norm", "q_norm", "k_norm", "post_attn_norm", "post_ffn_norm", "q_bias"):
        if (vector := source.vector(role, 1)) is not None:
            weights[role] = vector.copy()
    embed, norm = source.matrix("embed"), source.vector("final_norm")
    assert embed is not None
    assert norm is not None
    return weights | {"embed": floats(embed).copy(), "final_norm": norm.copy()}


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "phi3", "gemma3"])
def test_weights_come_back_as_optimum_names_them(kind: str, tmp_path: Path) -> None:
    """Every matrix, bias and norm, and the hyper-parameters of its configuration."""
    folder = write_hf(tmp_path / "m", kind)
    before, decoder, weights = roles_of(open_source(folder)), open_source(folder).decoder, weights_of(folder)
    like_optimum(folder, weights)
    ours = open_source(folder)
    after = roles_of(ours)
    assert after.keys() == before.keys()
    for role, values in before.items():
        np.testing.assert_array_equal(after[role], values, role)
    assert ours.decoder == decoder
    assert (ours.matrix("head") is None) == (kind in ("qwen2", "qwen3", "gemma3"))
    origin = open_origin(folder / "model.onnx")
    assert (origin.form, origin.quantized, origin.provenance["source_format"]) == ("onnx", False, "onnx")


@pytest.mark.parametrize("bits", [32, 4])
def test_weights_come_back_as_genai_names_them(bits: int, tmp_path: Path) -> None:
    """Out of stacked and shared matrices, blocks as blocks; what no file says is read in the graph."""
    folder = write_hf(tmp_path / "m", "qwen2")
    weights, decoder = weights_of(folder), open_source(folder).decoder
    like_genai(folder, weights, bits=bits)
    ours = open_source(folder)
    assert_same(ours, weights)
    stacked = np.concatenate([floats(m) for role in "qkv" if (m := ours.matrix(role, 1)) is not None])
    np.testing.assert_allclose(
        stacked, weights["model.layers.1.self_attn.qkv_proj.weight"], rtol=1e-5, atol=1e-7
    )
    assert ours.decoder == decoder
    assert open_origin(folder).quantized == (bits == 4)
    matrix = ours.matrix("down", 0)
    assert matrix is not None
    assert matrix.kind == ("F32" if bits == 32 else "U4")


def change(folder: Path, edit: Callable[[onnx.ModelProto], object]) -> None:
    """Edit the graph where it lies."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    edit(model)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def rename(folder: Path) -> None:
    """A product that nobody knows."""
    change(folder, lambda model: setattr(model.graph.node[0], "name", "/adapter/MatMul"))


def forget(folder: Path) -> None:
    """A layer without one of its matrices."""
    change(folder, lambda model: model.graph.node.pop(3))


def no_norm(folder: Path) -> None:
    """A norm of another name."""

    def edit(model: onnx.ModelProto) -> None:
        norm = next(node for node in model.graph.node if "LayerNormalization" in node.op_type)
        norm.input[2] = norm.name = "scale"

    change(folder, edit)


def another_order(folder: Path) -> None:
    """Columns in another order."""
    change(folder, lambda model: model.graph.node[0].input.append("order"))


def nobody_knows(folder: Path) -> None:
    """A graph alone."""
    (folder / "genai_config.json").unlink()


def outside(folder: Path) -> None:
    """Weights in a file that is not the model's."""

    def edit(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.external_data)
        tensor.external_data[0].value = "../secret"

    change(folder, edit)


def says(**changed: object) -> Callable[[Path], None]:
    """Another configuration."""

    def edit(folder: Path) -> None:
        path = folder / "genai_config.json"
        content = json.loads(path.read_text())
        content["model"] |= changed
        path.write_text(json.dumps(content))

    return edit


@pytest.mark.parametrize(
    ("damage", "error", "reason"),
    [
        (rename, ModelUnsupported, "/adapter/MatMul"),
        (forget, ModelUnsupported, "no matrix for o in layer 0"),
        (no_norm, ModelUnsupported, "no vector for attn_norm in layer 0"),
        (another_order, ModelUnsupported, "another order"),
        (nobody_knows, ModelUnsupported, "does not say what it is"),
        (outside, ModelCorrupt, "outside the model's folder"),
        (says(type="gemma3_text"), ModelUnsupported, "gemma3_text"),
        (says(decoder={}), ModelCorrupt, "head_size"),
        (says(context_length=None), ModelCorrupt, "genai_config.json"),
    ],
)
def test_what_cannot_be_read_back_is_named(
    damage: Callable[[Path], None], error: type[EdgeError], reason: str, tmp_path: Path
) -> None:
    """A typed error before anything is converted."""
    folder = write_hf(tmp_path / "m", "qwen2")
    like_genai(folder, weights_of(folder), bits=4)
    damage(folder)
    with pytest.raises(error) as caught:
        open_source(folder)
    assert reason in str(caught.value)


def test_a_scaled_rotation_is_refused(tmp_path: Path) -> None:
    """Tables alone do not say how they go on."""
    folder = write_hf(tmp_path / "m", "qwen2")
    like_genai(folder, weights_of(folder), scaled=0.5)
    with pytest.raises(ModelUnsupported, match="rotary"):
        open_source(folder)
