"""A whole model, layer after layer: run, rounded, and asked what each part of it costs."""

from pathlib import Path

import numpy as np
import pytest

from edgeai.converters.decoder import Matrix, Source
from edgeai.converters.divergence import compare
from edgeai.converters.gguf_writer import write_gguf
from edgeai.converters.graph import write_graph
from edgeai.converters.halfway import Halfway
from edgeai.converters.layers import embed, layer, logits
from edgeai.converters.linear import Plan, floats
from edgeai.converters.mixing import mix, weight_bytes
from edgeai.converters.onnx_package import open_source
from edgeai.converters.rounding import Method, round_model
from edgeai.converters.running import running
from edgeai.converters.scaling import GROUPS
from edgeai.converters.sensitivity import costs, sites_to_keep
from edgeai.converters.tuned import Tuned
from edgeai.errors import ConfigError
from tests.converters.graph_runner import GraphRunner
from tests.tiny_gguf import write_tiny_gguf

ROLES = tuple(role for roles in GROUPS.values() for role in roles)
TOKENS = np.random.default_rng(0).integers(3, 250, (4, 48))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A tiny decoder."""
    return open_source(write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf"))


@pytest.fixture(scope="module")
def rounded(source: Source) -> Tuned:
    """All of its layers in four bits."""
    return round_model(source, TOKENS)


def through_layers(source: Source) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The logits of all positions of the first window."""
    states = embed(source, TOKENS[:1])[0]
    for number in range(source.decoder.n_layers):
        with layer(source, number, 48, n_threads=1) as one:
            states = one.run(states)
    return np.concatenate(list(logits(source, states)))


def through_graph(
    source: Source, folder: Path, quant: str
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The same from the graph that engines run."""
    folder.mkdir()
    write_graph(source, folder, Plan(quant=quant), 64, lambda done, total: None)  # type: ignore[arg-type]  # a test's
    return GraphRunner(folder).run([TOKENS[0].tolist()], 0, range(48))[0]


def test_layer_by_layer_is_the_whole_model(source: Source, tmp_path: Path) -> None:
    """Layers run one by one give the logits of the graph that engines run."""
    np.testing.assert_allclose(
        through_layers(source), through_graph(source, tmp_path / "graph", "f32"), atol=2e-4
    )


def test_the_package_holds_what_was_rounded(rounded: Tuned, tmp_path: Path) -> None:
    """Four-bit kernels with zero points compute what the rounded floats say, but for 8-bit activations."""
    packed = through_graph(rounded, tmp_path / "packed", "auto")
    exact = through_graph(rounded, tmp_path / "exact", "f32")
    assert np.corrcoef(packed.ravel(), exact.ravel())[0, 1] > 0.999


def test_kept_sites_keep_their_numbers(source: Source) -> None:
    """What is to be kept is the source's own, everything else is rounded."""
    tuned = round_model(source, TOKENS, keep={("down", 0)})
    assert ("down", 0) not in tuned.matrices
    assert {("down", 1), ("q", 0), ("up", 1)} <= set(tuned.matrices)


def test_what_was_damaged_costs_most(source: Source, rounded: Tuned) -> None:
    """A group whose matrix was emptied stands out from those that were only rounded."""
    matrices = dict(rounded.matrices)
    matrices["down", 1] = Emptied(source, "down", 1)
    found = costs(source, Tuned(source=source, matrices=matrices), TOKENS[:1])
    assert set(found) == {(group, number) for group in GROUPS for number in (0, 1)}
    assert max(found, key=lambda site: found[site]) == ("down", 1)
    assert all(cost > 0 for cost in found.values())


def test_what_costs_most_for_its_bytes_is_kept() -> None:
    """Sites are kept by cost for each byte, as long as there are bytes to spare."""
    price = {("qkv", 0): 3.0, ("o", 0): 2.0, ("down", 0): 4.0}
    saved = {("qkv", 0): 10, ("o", 0): 10, ("down", 0): 100}
    assert sites_to_keep(price, saved, 0) == frozenset()
    assert sites_to_keep(price, saved, 19) == {("qkv", 0)}
    assert sites_to_keep(price, saved, 120) == set(saved)


class Emptied:
    """A matrix of zeros in the place of another one."""

    kind = "F32"

    def __init__(self, source: Source, role: str, number: int) -> None:
        matrix = source.matrix(role, number)
        assert matrix is not None
        self.values = np.zeros_like(floats(matrix))
        self.shape = matrix.shape

    def rows(self, start: int, stop: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        """Zeros."""
        return self.values[start:stop]


@pytest.mark.parametrize("method", ["gptq", "awq+gptq"])
def test_a_mixture_fits_its_size(method: Method, source: Source, tmp_path: Path) -> None:
    """With bytes to spare some groups keep eight bits, and the file is as large as was foretold."""
    least = weight_bytes(source)
    mixed = mix(source, TOKENS, method=method, size=least + 12_000)
    kept = {(role, number) for number in (0, 1) for role in ROLES} - set(mixed.matrices)
    assert kept
    write_graph(mixed, tmp_path, Plan(), 64, lambda done, total: None)
    written = (tmp_path / "model.onnx.data").stat().st_size
    assert least < written < least + 12_000 + 80_000  # alignment to pages, rotary tables and norms


def test_what_is_kept_of_a_scaled_model_fits_the_rest(source: Source, tmp_path: Path) -> None:
    """With nothing in four bits but one group, the model is nearly its source, scaled or not."""
    keep = {(group, number) for group in GROUPS for number in (0, 1)} - {("down", 1)}
    rounded = round_model(source, TOKENS, method="awq")
    only: dict[tuple[str, int | None], Matrix] = {("down", 1): rounded.matrices["down", 1]}
    mixed = Tuned(source=rounded.source, matrices=only)
    plain = through_graph(source, tmp_path / "plain", "f32")
    assert set(round_model(source, TOKENS, method="awq", keep=keep).matrices) == {("down", 1)}
    assert np.corrcoef(through_graph(mixed, tmp_path / "mixed", "f32").ravel(), plain.ravel())[0, 1] > 0.99
    whole = through_graph(rounded.source, tmp_path / "whole", "f32")
    np.testing.assert_allclose(whole, plain, atol=1e-3)


def test_a_size_out_of_reach_is_refused(source: Source) -> None:
    """The error says how small the model can be made."""
    with pytest.raises(ConfigError, match="four bits"):
        mix(source, TOKENS, size=1000)


def test_a_gguf_file_holds_what_was_rounded(source: Source, tmp_path: Path) -> None:
    """Bit for bit, kept groups in eight bits; and llama.cpp computes what the rounded floats say."""
    tuned = round_model(source, TOKENS, grid="minimum", keep={("down", 0)})
    write_gguf(tuned, tmp_path / "blocks.gguf", "blocks")
    write_gguf(tuned, tmp_path / "floats.gguf", "f32")
    written = open_source(tmp_path / "blocks.gguf")
    for role, number in tuned.matrices:
        ours, theirs = written.matrix(role, number), tuned.matrix(role, number)
        assert ours is not None
        assert theirs is not None
        assert ours.kind == "Q4_1"
        np.testing.assert_array_equal(floats(ours), floats(theirs))
    kept = written.matrix("down", 0)
    assert kept is not None
    assert kept.kind == "Q8_0"
    with (
        running(tmp_path / "blocks.gguf", n_ctx=64) as one,
        running(tmp_path / "floats.gguf", n_ctx=64) as two,
    ):
        assert compare(two, one, [TOKENS[0].tolist()]).kl_mean < 0.01


@pytest.mark.parametrize("method", ["gptq", "awq+gptq"])
def test_an_interrupted_model_goes_on(method: Method, source: Source, tmp_path: Path) -> None:
    """Layers that were done are not made again, and the end is the same, number by number."""
    whole = round_model(source, TOKENS, method=method)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        round_model(source, TOKENS, method=method, halfway=Halfway(tmp_path), progress=interrupt)
    seen: list[int] = []
    tuned = round_model(
        source,
        TOKENS,
        method=method,
        halfway=Halfway(tmp_path),
        progress=lambda done, total: seen.append(done),
    )
    assert seen == list(range(1, source.decoder.n_layers + 1)), "the first was there"
    assert len(list(Halfway(tmp_path).known())) == source.decoder.n_layers
    for key, matrix in whole.matrices.items():
        np.testing.assert_array_equal(floats(tuned.matrices[key]), floats(matrix))
    for role in ("attn_norm", "ffn_norm"):
        for number in range(source.decoder.n_layers):
            ours, theirs = tuned.vector(role, number), whole.vector(role, number)
            assert ours is not None
            assert theirs is not None
            np.testing.assert_array_equal(ours, theirs)


def test_a_layer_that_was_half_written_is_made_again(source: Source, tmp_path: Path) -> None:
    """Without the states behind it nothing can go on from there."""
    round_model(source, TOKENS, halfway=Halfway(tmp_path))
    (tmp_path / f"layer-{source.decoder.n_layers - 1:04}" / "states.npy").unlink()
    assert list(Halfway(tmp_path).known()) == []
    seen: list[int] = []
    round_model(source, TOKENS, halfway=Halfway(tmp_path), progress=lambda done, total: seen.append(done))
    assert seen == list(range(1, source.decoder.n_layers + 1))
