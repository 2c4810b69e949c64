"""Our GPTQ against llmcompressor's, on layers of the default model with the inputs that they really get."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
theirs = pytest.importorskip("llmcompressor.modifiers.gptq.gptq_quantize")
quantization = pytest.importorskip("compressed_tensors.quantization")

from edgeai.converters import gptq  # noqa: E402
from edgeai.converters.blocks import Blocks  # noqa: E402
from edgeai.converters.decoder import need  # noqa: E402
from edgeai.converters.fewer_bits import calibration_tokens  # noqa: E402
from edgeai.converters.layers import embed, layer  # noqa: E402
from edgeai.converters.linear import floats  # noqa: E402
from edgeai.converters.onnx_package import open_source  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs

Floats = NDArray[np.float32]
Curvature = NDArray[np.float64]
ROLES = {"q": "qkv", "o": "o", "up": "gate_up", "down": "down"}
ARGS = quantization.QuantizationArgs(
    num_bits=4,
    symmetric=False,
    strategy="group",
    group_size=32,
    actorder=quantization.ActivationOrdering.WEIGHT,
)


@dataclass(frozen=True, slots=True)
class Case:
    """A matrix, and the curvature of its inputs on the calibration text and on other text."""

    name: str
    weights: Floats
    curvature: Curvature
    held_out: Curvature


@pytest.fixture(scope="module")
def cases(model_path: Path) -> list[Case]:
    """Matrices of the first layers."""
    return list(read_cases(model_path))


def read_cases(path: Path) -> Iterator[Case]:
    """Weights get noise: on the grid that the file has already, there is nothing to round."""
    source = open_source(path)
    tokens = calibration_tokens(source)
    states = embed(source, tokens)
    random = np.random.default_rng(0)
    for number in range(3):
        with layer(source, number, tokens.shape[1], n_threads=1) as one:
            if number != 1:
                found = [one.inputs(window) for window in states]
                for role, group in ROLES.items():
                    sums = [gptq.hessian(each[group]) for each in found]
                    weights = floats(need(source, role, number))[:192]
                    noise = random.normal(0, weights.std() / 20, weights.shape)
                    yield Case(
                        f"{role} {number}",
                        (weights + noise).astype(np.float32),
                        np.sum(sums[:12], axis=0),
                        np.sum(sums[12:], axis=0),
                    )
            states = np.stack([one.run(window) for window in states])


def loss(case: Case, found: Floats, curvature: Curvature) -> float:
    """The square error of the outputs."""
    error = (found - case.weights).astype(np.float64)
    return float(np.vdot(error @ curvature, error))


def run_theirs(case: Case, scale: Floats, zero: Floats, damping: float) -> Floats:
    """Their rounding with these scales and zero points."""
    rounded, _, fallback = theirs.quantize_weight(
        torch.from_numpy(case.weights.copy())[None],
        torch.from_numpy(case.curvature.astype(np.float32))[None],
        torch.from_numpy(scale)[None],
        torch.from_numpy(zero)[None],
        None,
        ARGS,
        percdamp=damping,
    )
    assert not fallback.any()
    return np.asarray(rounded[0].numpy(), np.float32)


def own_grid(blocks: Blocks) -> tuple[Floats, Floats]:
    """Our scales and zero points, as they take them: levels from -8 to 7."""
    return blocks.scale, np.asarray(np.rint(-blocks.offset / blocks.scale) - 8, np.float32)


def test_the_same_grid_gives_the_same_levels(cases: list[Case]) -> None:
    """With our scales, order and damping, nearly every weight goes where theirs goes, and as much is lost."""
    for case in cases:
        ours = gptq.quantize(case.weights, case.curvature.copy(), "zero")
        found = run_theirs(case, *own_grid(ours), damping=gptq._DAMPING)
        same = (np.abs(found - ours.floats()) < np.abs(np.repeat(ours.scale, 32, axis=1)) / 2).mean()
        ratio = loss(case, ours.floats(), case.curvature) / loss(case, found, case.curvature)
        print(f"{case.name}: {same:.2%} same, {ratio:.4f} × loss")  # noqa: T201
        assert ratio == pytest.approx(1, rel=0.005), case.name
        assert same > 0.99, case.name


def test_other_text_loses_no_more_than_by_what_they_do_by_default(cases: list[Case]) -> None:
    """Their scales from each block's range and their damping of 0.01 against ours: equal on the average.

    Their damping loses less on the calibration text itself, and more on other text where inputs are many.
    """
    ratios = []
    for case in cases:
        ours = gptq.quantize(case.weights, case.curvature.copy(), "zero").floats()
        blocks = torch.from_numpy(case.weights).reshape(len(case.weights), -1, 32)
        scale, zero = quantization.utils.calculate_qparams(blocks.amin(-1), blocks.amax(-1), ARGS)
        found = run_theirs(case, scale.float().numpy(), zero.float().numpy(), damping=0.01)
        ratios.append(loss(case, ours, case.held_out) / loss(case, found, case.held_out))
        print(f"{case.name}: {ratios[-1]:.3f} × theirs")  # noqa: T201
    mean = float(np.exp(np.log(ratios).mean()))
    print(f"all: {mean:.3f} × theirs")  # noqa: T201
    assert mean < 1.05
