"""Checkpoints that autoawq, auto-gptq and compressed-tensors packed; `make test-converters` runs these.

Each of them also unpacks what it packed: that is what our reader must give, to the last bit of a half.
"""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
compression = pytest.importorskip("compressed_tensors.compressors.pack_quantized")
quantization = pytest.importorskip("compressed_tensors.quantization")

from edgeai.converters.gates import Gates  # noqa: E402
from edgeai.converters.linear import floats  # noqa: E402
from edgeai.converters.onnx_package import open_source  # noqa: E402
from edgeai.converters.proof import Trial  # noqa: E402
from edgeai.converters.safetensors_file import open_folder  # noqa: E402
from edgeai.converters.toolchain import convert  # noqa: E402
from tests.converters.folders import write_hf  # noqa: E402
from tests.converters.test_checkpoints import AWQ, GPTQ, compressed, write_tensors  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs

Parts = dict[str, Any]
Packer = Callable[[Any, dict[str, Any], Any], tuple[Parts, Any]]
"""A linear layer, the settings, drawn numbers → the tensors of a checkpoint, and the weights they are."""

GROUP = 32


def module(package: str, *parts: str) -> ModuleType:
    """One file of a package, whose other files want other versions of transformers."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"{package} is not installed")
    path = Path(found.origin).parent.joinpath(*parts).with_suffix(".py")
    spec = importlib.util.spec_from_file_location(f"{package}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def grid(linear: Any, bits: int, groups: Any, *, symmetric: bool) -> tuple[Any, Any]:  # noqa: ANN401  # torch's
    """Scales, which halves can hold, and zero points: (outputs, groups)."""
    top = 2**bits - 1
    columns = [linear.weight.data[:, groups == i] for i in range(int(groups.max()) + 1)]
    low = torch.stack([part.amin(1) for part in columns], 1)
    high = torch.stack([part.amax(1) for part in columns], 1)
    if symmetric:
        scale = (torch.maximum(-low, high) * 2 / (top - 1)).half()  # they cut nothing off
        return scale, torch.full_like(scale, (top + 1) // 2)
    scale = ((high - low) / top).half()
    return scale, torch.round(-low / scale).clamp(1, top)


def auto_gptq(linear: Any, said: dict[str, Any], drawn: Any) -> tuple[Parts, Any]:  # noqa: ANN401  # torch's
    """auto-gptq's layer; its product with the unit matrix is its weights."""
    layers = module("auto_gptq", "nn_modules", "qlinear", "qlinear_cuda")
    n_inputs = linear.in_features
    groups = torch.arange(n_inputs, dtype=torch.int32) // GROUP
    if said["desc_act"]:
        groups = groups[torch.randperm(n_inputs, generator=drawn)]
    scale, zero = grid(linear, said["bits"], groups, symmetric=said["sym"])
    layer = layers.QuantLinear(said["bits"], GROUP, n_inputs, linear.out_features, bias=False)
    layer.pack(linear.half(), scale, zero, groups)
    weights = layer(torch.eye(n_inputs, dtype=torch.float16)).T
    return {name: getattr(layer, name) for name in ("qweight", "qzeros", "scales", "g_idx")}, weights


def auto_awq(linear: Any, said: dict[str, Any], drawn: Any) -> tuple[Parts, Any]:  # noqa: ANN401  # torch's
    """autoawq's layer, and its own function that turns one into weights."""
    gemm = pytest.importorskip("awq.modules.linear.gemm")
    packing = pytest.importorskip("awq.utils.packing_utils")
    groups = torch.arange(linear.in_features) // GROUP
    scale, zero = (part.T.contiguous() for part in grid(linear, 4, groups, symmetric=False))
    layer = gemm.WQLinear_GEMM.from_linear(linear.half(), 4, GROUP, scales=scale, zeros=zero)
    parts = {name: getattr(layer, name) for name in ("qweight", "qzeros", "scales")}
    return parts, packing.dequantize_gemm(*parts.values(), 4, GROUP).T


def compressor(linear: Any, said: dict[str, Any], drawn: Any) -> tuple[Parts, Any]:  # noqa: ANN401  # torch's
    """compressed-tensors' compressor, which also decompresses."""
    weights = said["config_groups"]["group_0"]["weights"]
    args = quantization.QuantizationArgs(**weights)
    scheme = quantization.QuantizationScheme(targets=["Linear"], weights=args)
    values = linear.weight.data.half()
    blocks = values.reshape(len(values), -1, GROUP)
    scale, zero = quantization.utils.calculate_qparams(blocks.amin(-1), blocks.amax(-1), args)
    state = {"weight": values, "weight_scale": scale, "weight_zero_point": zero.to(torch.int8)}
    packed = compression.PackedQuantizationCompressor.compress(state, scheme)
    return packed, compression.PackedQuantizationCompressor.decompress(packed, scheme)["weight"]


CASES: dict[str, tuple[dict[str, Any], Packer]] = {
    "auto-gptq": (GPTQ, auto_gptq),
    "auto-gptq, symmetric": (GPTQ | {"sym": True}, auto_gptq),
    "auto-gptq, columns in another order": (GPTQ | {"desc_act": True}, auto_gptq),
    "auto-gptq, eight bits": (GPTQ | {"bits": 8, "sym": True}, auto_gptq),
    "auto-gptq, two bits": (GPTQ | {"bits": 2}, auto_gptq),
    "autoawq": (AWQ, auto_awq),
    "compressed-tensors": (compressed(), compressor),
    "compressed-tensors, symmetric": (compressed(symmetric=True), compressor),
    "compressed-tensors, eight bits": (compressed(num_bits=8), compressor),
}


def write_checkpoint(folder: Path, name: str) -> dict[str, NDArray[Any]]:
    """A tiny model whose layers they packed; the weights that they unpack, by name."""
    said, pack = CASES[name]
    drawn = torch.Generator().manual_seed(0)
    tensors: dict[str, NDArray[Any]] = {}
    weights: dict[str, NDArray[Any]] = {}
    for key, tensor in open_folder(folder).items():
        values = torch.from_numpy(tensor.floats().copy())
        if not key.endswith("_proj.weight"):
            tensors[key] = values.numpy()
            continue
        linear = torch.nn.Linear(values.shape[1], values.shape[0], bias=False)
        linear.weight.data = values
        parts, unpacked = pack(linear, said, drawn)
        weights[key] = unpacked.detach().numpy()
        stem = key.removesuffix(".weight")
        tensors |= {f"{stem}.{part}": found.detach().numpy() for part, found in parts.items()}
    write_tensors(folder / "model.safetensors", tensors)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": said}))
    return weights


@pytest.mark.parametrize("name", CASES)
def test_what_they_packed_is_read_as_they_unpack_it(name: str, tmp_path: Path) -> None:
    """Every weight of every layer; and it is near what was packed, so that neither is nonsense."""
    folder = write_hf(tmp_path / "m", "llama")
    shutil.copytree(folder, tmp_path / "plain")
    weights = write_checkpoint(folder, name)
    ours, plain = open_source(folder), open_source(tmp_path / "plain")
    parts = {role: f"self_attn.{role}_proj" for role in "qkvo"}
    parts |= {role: f"mlp.{role}_proj" for role in ("gate", "up", "down")}
    for layer in range(ours.decoder.n_layers):
        for role, part in parts.items():
            found, before = ours.matrix(role, layer), plain.matrix(role, layer)
            assert found is not None
            assert before is not None
            theirs = weights[f"model.layers.{layer}.{part}.weight"]
            np.testing.assert_array_equal(floats(found).astype(theirs.dtype), theirs)
            correlation = np.corrcoef(theirs.ravel().astype(np.float32), floats(before).ravel())[0, 1]
            assert correlation > (0.8 if "two bits" in name else 0.97)


@pytest.mark.parametrize("name", ["auto-gptq", "autoawq", "compressed-tensors"])
def test_what_they_packed_becomes_a_package(name: str, tmp_path: Path) -> None:
    """Without rounding, proved against the checkpoint itself."""
    folder = write_hf(tmp_path / "m", "llama")
    write_checkpoint(folder, name)
    made = convert(
        folder, tmp_path / "out", to="onnx", quant="exact", gates=Gates(min_agreement=0.8),
        test=Trial(tokens=96, window=96, speed=False),
    )  # fmt: skip
    assert made.proof.passed
