"""Nothing but a sound LoRA adapter of this model reaches native code."""

from pathlib import Path
from typing import Any

import pytest

from edgeai.errors import ModelCorrupt, ModelNotFound, ModelUnsupported
from edgeai.models.gguf import read_header
from edgeai.models.gguf_adapter import check_adapter
from tests.tiny_lora import write_lora


def test_a_fitting_adapter_is_let_through(tiny: Path, tmp_path: Path) -> None:
    """And says nothing."""
    check_adapter(write_lora(tmp_path / "fits.gguf", tiny), read_header(tiny))


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"architecture": "gemma"}, ModelUnsupported),
        ({"kind": "control_vector"}, ModelUnsupported),
        ({"alpha": float("nan")}, ModelCorrupt),
        ({"reshape": {"blk.0.attn_output.weight.lora_a": (2, 32)}}, ModelCorrupt),
        ({"reshape": {"blk.1.attn_output.weight.lora_b": (64, 3)}}, ModelCorrupt),
    ],
)
def test_others_are_refused(
    fields: dict[str, Any], error: type[Exception], tiny: Path, tmp_path: Path
) -> None:
    """Another architecture, another kind, or halves that do not fit."""
    path = write_lora(tmp_path / "odd.gguf", tiny, **fields)
    with pytest.raises(error):
        check_adapter(path, read_header(tiny))


def test_a_model_is_no_adapter(tiny: Path) -> None:
    """A mix-up of files is named."""
    with pytest.raises(ModelUnsupported, match="LoRA"):
        check_adapter(tiny, read_header(tiny))


def test_a_shortened_adapter_is_refused(tiny: Path, tmp_path: Path) -> None:
    """At any length."""
    path = write_lora(tmp_path / "short.gguf", tiny)
    whole = path.read_bytes()
    header = read_header(tiny)
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelCorrupt):
            check_adapter(path, header)


def test_a_missing_adapter_is_named(tiny: Path, tmp_path: Path) -> None:
    """As a model that is not there."""
    with pytest.raises(ModelNotFound):
        check_adapter(tmp_path / "none.gguf", read_header(tiny))
