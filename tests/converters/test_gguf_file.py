"""A GGUF file read by our own checked reader says what `gguf`, the format's own library, reads."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from edgeai.converters.gguf_file import GgufFile
from edgeai.converters.onnx_package import export
from edgeai.errors import ModelCorrupt
from tests.tiny_gguf import write_tiny_gguf


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A tiny file."""
    return write_tiny_gguf(tmp_path / "tiny.gguf")


def test_metadata_are_those_of_the_format_s_own_library(path: Path) -> None:
    """Scalars and arrays of every type in the file, long and short."""
    ours, reader = GgufFile(path), gguf.GGUFReader(path)
    fields = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert len(fields["tokenizer.ggml.tokens"]) == 267
    for key, value in fields.items():
        found = (ours.texts(key), ours.numbers(key), ours.text(key), ours.flag(key), ours.number(key))
        assert value in [read for read in found if read is not None], key


def test_tensors_are_those_of_the_format_s_own_library(path: Path) -> None:
    """Names, formats and every number."""
    ours, reader = GgufFile(path), gguf.GGUFReader(path)
    assert ours.tensors == {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    for tensor in reader.tensors:
        np.testing.assert_array_equal(ours.floats(tensor.name), tensor.data.reshape(-1))


def test_strings_that_are_no_text_are_refused(path: Path, tmp_path: Path) -> None:
    """A token that is not UTF-8 is damage, and no error of Python's own."""
    token = "Ġthe".encode()
    assert token in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(token, b"\xff" + token[1:]))
    with pytest.raises(ModelCorrupt, match="UTF-8"):
        export(path, tmp_path / "package")
