"""One scale for each output: the numbers of ONNX Runtime's own dynamic quantization."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeai.converters.channels import Channels, round_channels
from edgeai.converters.quantize import Loss
from edgeai.errors import ModelCorrupt
from tests.converters.test_quantize import Memory

VALUES = np.random.default_rng(0).normal(0, 0.1, (24, 40)).astype(np.float32)


def test_codes_are_those_of_quantize_dynamic(tmp_path: Path) -> None:
    """Per channel with reduced range, number for number."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, [None, 40])],
        [value("y", TensorProto.FLOAT, [None, 24])],
        [numpy_helper.from_array(np.ascontiguousarray(VALUES.T), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save_model(model, tmp_path / "plain.onnx")
    quantize_dynamic(
        tmp_path / "plain.onnx",
        tmp_path / "theirs.onnx",
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
    )
    made = onnx.load(tmp_path / "theirs.onnx").graph.initializer
    theirs = {tensor.name: numpy_helper.to_array(tensor) for tensor in made}
    ours = round_channels(Memory(VALUES), Loss("F32", "x"))
    scale = next(array for name, array in theirs.items() if "scale" in name)
    codes = next(array for name, array in theirs.items() if "quantized" in name)
    np.testing.assert_allclose(scale, ours.scale, rtol=1e-6)
    np.testing.assert_array_equal(codes, ours.codes)


def test_the_error_is_counted_and_small() -> None:
    """Half a step at most; a row of zeros stays one."""
    values = VALUES.copy()
    values[3] = 0
    loss = Loss("F32", "int8+dynamic")
    found = round_channels(Channels(inner=Memory(values)), loss)
    assert np.abs(found.codes).max() == 64
    error = np.abs(found.codes.T * found.scale[:, None] - values)
    assert (error <= found.scale[:, None] / 2 * 1.0001).all()
    assert loss.max_abs == pytest.approx(error.max())
    assert (found.codes[:, 3] == 0).all()
    assert loss.n_bytes == found.codes.nbytes + found.scale.nbytes


def test_what_is_no_number_is_refused() -> None:
    """As everywhere."""
    values = VALUES.copy()
    values[0, 0] = np.inf
    with pytest.raises(ModelCorrupt, match="not numbers"):
        round_channels(Memory(values), Loss("F32", "x"))


def test_the_kernel_overflows_nowhere() -> None:
    """The largest inputs times the largest weights, which eight bits would get wrong on AVX2."""
    value, n = helper.make_tensor_value_info, 64
    graph = helper.make_graph(
        [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["c", "s", "z"]),
            helper.make_node(
                "MatMulIntegerToFloat", ["c", "w", "s", "t", "z"], ["y"], domain="com.microsoft"
            ),
        ],
        "g",
        [value("x", TensorProto.FLOAT, [1, n])],
        [value("y", TensorProto.FLOAT, [1, 8])],
        [
            numpy_helper.from_array(np.full((n, 8), 64, np.int8), "w"),
            numpy_helper.from_array(np.ones(8, np.float32), "t"),
        ],
    )
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": np.ones((1, n), np.float32)})[0]
    np.testing.assert_allclose(found, 64.0 * n, rtol=1e-5)
