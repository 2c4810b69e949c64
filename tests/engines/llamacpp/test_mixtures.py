"""Mixtures of experts: tiny random ones of each kind, from the file to an answer."""

from pathlib import Path

import pytest

from edgeai import Edge
from edgeai.errors import ModelCorrupt
from edgeai.models.gguf import read_header
from edgeai.models.store import find
from tests.tiny_gguf import write_tiny_gguf
from tests.tiny_moe import KINDS, N_EMBD, N_EXPERTS, N_FF, N_LAYER, N_USED, write_tiny_moe


@pytest.mark.parametrize("kind", KINDS)
def test_it_loads_and_runs(kind: str, tmp_path: Path) -> None:
    """An answer, the same one each time, and in `info` how many parameters a token goes through."""
    path = write_tiny_moe(tmp_path / f"{kind}.gguf", kind)
    with Edge(path, ledger=False) as edge:
        answers = {edge.ask("Hello", max_tokens=8, seed=seed).text for seed in (1, 2)}
        info = edge.info
        assert edge.embed(["a", "b"]).shape == (2, N_EMBD)
    assert len(answers) == 1
    assert info.parameters == read_header(path).parameters
    assert info.parameters - info.active_parameters == N_LAYER * (N_EXPERTS - N_USED) * 3 * N_FF * N_EMBD


def test_all_parameters_of_a_dense_model_are_active(tmp_path: Path) -> None:
    """There are no others."""
    with Edge(write_tiny_gguf(tmp_path / "dense.gguf"), ledger=False) as edge:
        assert edge.info.active_parameters == edge.info.parameters > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_mixture_of_nothing_is_refused(kind: str, tmp_path: Path) -> None:
    """Before llama.cpp sees it."""
    path = write_tiny_moe(tmp_path / "none.gguf", kind, n_experts=0)
    with pytest.raises(ModelCorrupt):
        find(path)
