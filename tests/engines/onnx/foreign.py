"""The tiny graph as other people's exporters write it: by onnxruntime-genai's builder, and by optimum.

The weights are those of the package that edgeai wrote, so that all of them must say the same.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

INT64, FLOAT = TensorProto.INT64, TensorProto.FLOAT


def genai_like(package: Path, folder: Path) -> Path:
    """Fused attention whose lengths come from an attention mask; logits of all positions."""
    model = _copy(package, folder)
    nodes = [
        _node("ReduceSum", ["attention_mask", _const(model, "axis", [1])], "mask_sum", keepdims=0),
        _node("Sub", ["mask_sum", _const(model, "one", 1)], "seqlens_64"),
        _node("Cast", ["seqlens_64"], "seqlens_k", to=TensorProto.INT32),
        _node("Shape", ["attention_mask"], "mask_shape"),
        _node("Gather", ["mask_shape", _const(model, "second", 1)], "total_64"),
        _node("Cast", ["total_64"], "total_sequence_length", to=TensorProto.INT32),
    ]
    inputs = [helper.make_tensor_value_info("attention_mask", INT64, ["batch_size", "total_sequence_length"])]
    config = {"head_size": _width(model), "num_key_value_heads": 2, "hidden_size": 64}
    for value in [*model.graph.input, *model.graph.output]:
        if value.name.startswith(("past", "present")):  # the builder leaves it to its configuration
            value.type.tensor_type.shape.dim[3].dim_param = "kv_cache_dim"
    _finish(model, folder, nodes, inputs)
    content = {"model": {"context_length": 512, "eos_token_id": 2, "decoder": config}}
    (folder / "genai_config.json").write_text(json.dumps(content), "utf-8")
    return folder


def optimum_like(package: Path, folder: Path) -> Path:
    """Attention in plain operations, position_ids, and a past that is joined with what is new."""
    model = _copy(package, folder)
    nodes = [
        _node("Shape", ["attention_mask"], "mask_shape"),
        _node(
            "Slice", ["mask_shape", *(_const(model, n, [i]) for n, i in (("at1", 1), ("at2", 2)))], "total"
        ),
        _node("Range", [_const(model, "zero", 0), "total.0", _const(model, "one", 1)], "key_at"),
        _node("Unsqueeze", ["position_ids", _const(model, "axes13", [1, 3])], "query_at"),
        _node("LessOrEqual", ["key_at", "query_at"], "seen"),
        _node("Unsqueeze", ["attention_mask", _const(model, "axes12", [1, 2])], "kept_64"),
        _node("Cast", ["kept_64"], "kept", to=TensorProto.BOOL),
        _node("And", ["seen", "kept"], "visible"),
        _node("Where", ["visible", _const(model, "open", 0.0), _const(model, "shut", -1e9)], "bias"),
    ]
    nodes.insert(2, _node("Squeeze", ["total"], "total.0"))
    inputs = [
        helper.make_tensor_value_info("attention_mask", INT64, ["batch_size", "total_length"]),
        helper.make_tensor_value_info("position_ids", INT64, ["batch_size", "sequence_length"]),
    ]
    made: list[onnx.NodeProto] = []
    for node in model.graph.node:
        made.extend(_plain_attention(model, node) if node.op_type == "GroupQueryAttention" else [node])
    del model.graph.node[:]
    model.graph.node.extend(made)
    _finish(model, folder, nodes, inputs)
    return folder


def _plain_attention(model: onnx.ModelProto, node: onnx.NodeProto) -> Iterable[onnx.NodeProto]:
    numbers = {a.name: a.i for a in node.attribute if a.type == onnx.AttributeProto.INT}
    n_heads, n_kv, name = numbers["num_heads"], numbers["kv_num_heads"], node.output[0]
    past = [node.input[3], node.input[4]]
    cos, sin = node.input[7], node.input[8]
    width = _width(model)
    sizes = _const(model, "split", [n_heads * width, n_kv * width, n_kv * width])
    yield helper.make_node("Split", [node.input[0], sizes], [f"{name}.{part}" for part in "qkv"], axis=-1)
    for table, part in ((cos, "cos"), (sin, "sin")):
        yield _node("Gather", [table, "position_ids"], f"{name}.{part}.half")
        yield _node("Concat", [f"{name}.{part}.half"] * 2, f"{name}.{part}.full", axis=-1)
        yield _node("Unsqueeze", [f"{name}.{part}.full", _const(model, "axes1", [1])], f"{name}.{part}")
    for part, heads in (("q", n_heads), ("k", n_kv), ("v", n_kv)):
        shape = _const(model, f"heads{heads}", [0, 0, heads, width])
        yield _node("Reshape", [f"{name}.{part}", shape], f"{name}.{part}.apart")
        yield _node("Transpose", [f"{name}.{part}.apart"], f"{name}.{part}.heads", perm=[0, 2, 1, 3])
    for part in "qk":
        x = f"{name}.{part}.heads"
        yield helper.make_node("Split", [x], [f"{x}.a", f"{x}.b"], axis=-1, num_outputs=2)
        yield _node("Neg", [f"{x}.b"], f"{x}.minus")
        yield _node("Concat", [f"{x}.minus", f"{x}.a"], f"{x}.turned", axis=-1)
        yield _node("Mul", [x, f"{name}.cos"], f"{x}.c")
        yield _node("Mul", [f"{x}.turned", f"{name}.sin"], f"{x}.s")
        yield _node("Add", [f"{x}.c", f"{x}.s"], f"{name}.{part}.rotated")
    yield _node("Concat", [past[0], f"{name}.k.rotated"], node.output[1], axis=2)
    yield _node("Concat", [past[1], f"{name}.v.heads"], node.output[2], axis=2)
    for i in (1, 2):  # repeat_kv, as transformers does
        shapes = [[0, 0, 1, -1, width], [1, 1, n_heads // n_kv, 1, 1], [0, n_heads, -1, width]]
        apart, times, joined = (_const(model, f"repeat.{k}", shape) for k, shape in enumerate(shapes))
        yield _node("Reshape", [node.output[i], apart], f"{name}.{i}.apart")
        yield _node("Tile", [f"{name}.{i}.apart", times], f"{name}.{i}.tiled")
        yield _node("Reshape", [f"{name}.{i}.tiled", joined], f"{name}.{i}.all")
    yield _node("Transpose", [f"{name}.1.all"], f"{name}.kT", perm=[0, 1, 3, 2])
    yield _node("MatMul", [f"{name}.q.rotated", f"{name}.kT"], f"{name}.raw")
    yield _node("Mul", [f"{name}.raw", _const(model, "scale", float(width**-0.5))], f"{name}.scaled")
    yield _node("Add", [f"{name}.scaled", "bias"], f"{name}.masked")
    yield _node("Softmax", [f"{name}.masked"], f"{name}.weights", axis=-1)
    yield _node("MatMul", [f"{name}.weights", f"{name}.2.all"], f"{name}.mixed")
    yield _node("Transpose", [f"{name}.mixed"], f"{name}.back", perm=[0, 2, 1, 3])
    yield _node("Reshape", [f"{name}.back", _const(model, "flat", [0, 0, n_heads * width])], name)


def _width(model: onnx.ModelProto) -> int:
    """Of a head: keys have it in the graph's inputs."""
    past = next(v for v in model.graph.input if v.name.startswith("past"))
    width: int = past.type.tensor_type.shape.dim[3].dim_value
    return width


def _copy(package: Path, folder: Path) -> onnx.ModelProto:
    """The side files, without those that are edgeai's own, and the graph."""
    keep = shutil.ignore_patterns("edgeai.json", "conversion.json", "model.onnx*")
    shutil.copytree(package, folder, ignore=keep)
    model = onnx.load(package / "model.onnx")
    del model.metadata_props[:]
    return model


def _finish(
    model: onnx.ModelProto,
    folder: Path,
    first: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
) -> None:
    """All positions' logits in a batch, no other outputs, and the new inputs instead of edgeai's own."""
    graph = model.graph
    n_vocab = graph.output[0].type.tensor_type.shape.dim[1].dim_value
    for node in graph.node:
        if node.op_type == "Gather" and "logits_index" in node.input:
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]
        node.name = ""
        for i, name in enumerate(node.output):
            node.output[i] = "rows" if name == "logits" else name
    last = [
        _node("Shape", ["input_ids"], "ids_shape"),
        _node("Concat", ["ids_shape", _const(model, "n_vocab", [n_vocab])], "logits_shape", axis=0),
        _node("Reshape", ["rows", "logits_shape"], "logits"),
    ]
    nodes = [*first, *graph.node, *last]
    kept = [v for v in graph.input if v.name == "input_ids" or v.name.startswith("past")]
    presents = [v for v in graph.output if v.name.startswith("present")]
    logits = helper.make_tensor_value_info("logits", FLOAT, ["batch_size", "sequence_length", n_vocab])
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    graph.input.extend([*kept, *inputs])
    graph.output.extend([logits, *presents])
    onnx.save_model(model, folder / "model.onnx")


def _node(op: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:  # noqa: ANN401  # as onnx has it
    return helper.make_node(op, inputs, [output], **attributes)


def _const(model: onnx.ModelProto, name: str, content: object) -> str:
    name = f"const.{name}"
    if all(tensor.name != name for tensor in model.graph.initializer):
        array = np.array(content)
        array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return name
