"""The same source gives the same bytes, proofs apart, in whatever process."""

from pathlib import Path

import pytest

from tests.converters.make_all import assert_the_same_twice
from tests.tiny_gguf import write_tiny_gguf


def test_what_is_calibrated_and_what_npus_run_is_the_same_in_another_process(tmp_path: Path) -> None:
    """Mixed bits, GPTQ, folders, and graphs for NPUs; other formats are tried in one process."""
    ways = ["onnx:mixed", "gguf:gptq", "gguf:mixed", "hf:bf16", "onnx:int8:a8w8"]
    assert_the_same_twice(write_tiny_gguf(tmp_path / "tiny.gguf"), tmp_path, ways)


@pytest.mark.soak
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("way", ["onnx:mixed", "gguf:gptq", "gguf:mixed", "hf:bf16", "onnx:int8:a16w8"])
def test_real_weights_become_the_same_in_another_process(way: str, model_path: Path, tmp_path: Path) -> None:
    """The default model, whose sums are long."""
    assert_the_same_twice(model_path, tmp_path, [way])
