"""Halves in the file, floats in memory."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from edgeai.converters.decoder import Matrix, need
from edgeai.converters.linear import floats
from edgeai.converters.onnx_package import export, open_source
from edgeai.converters.tuned import Tuned
from edgeai.engines.onnx.facts import quantization_of
from edgeai.engines.onnx.proto import read_graph
from edgeai.errors import ModelUnsupported
from tests.converters.folders import write_hf
from tests.converters.test_quantize import Memory


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_matrices_are_converted_once_when_loaded(kind: str, tmp_path: Path) -> None:
    """Nothing but the looked-up rows of the embedding is converted while the model runs; tied or not."""
    folder = export(write_hf(tmp_path / "m", kind), tmp_path / "f16", quant="f16").folder
    graph = read_graph(folder / "model.onnx")
    assert quantization_of(graph) == "f16"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    run = onnx.load(tmp_path / "optimized.onnx", load_external_data=False).graph
    assert [node.op_type for node in run.node].count("Cast") == 1
    assert {node.output[0] for node in run.node if node.op_type == "Cast"} == {"embedding"}


def test_the_loss_is_told_and_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    """Eleven bits of each weight stay; beyond 65504 there is nothing."""
    source = open_source(write_hf(tmp_path / "m", "llama"))
    made = export(source, tmp_path / "f16", quant="f16")
    assert {row["target"] for row in made.losses} == {"f16"}
    assert all(0 < float(row["relative_rms_error"]) < 2**-11 for row in made.losses)
    values = floats(need(source, "up", 1)).copy()
    values[3, 3] = np.float32(70000)
    matrices: dict[tuple[str, int | None], Matrix] = {("up", 1): Memory(values)}
    with pytest.raises(ModelUnsupported, match="beyond the range"):
        export(Tuned(source=source, matrices=matrices), tmp_path / "large", quant="f16")
    assert not (tmp_path / "large").exists()
