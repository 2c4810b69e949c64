"""Converting holds a piece of the model in memory, never the model: measured in processes of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

from edgeai.converters.decoder import Source, need
from edgeai.converters.onnx_package import open_source

_ROLES = ("q", "k", "v", "o", "gate", "up", "down")
CALIBRATED = ("importance", "awq_gptq", "mixed", "int8_dynamic")
_MEASURE = """
import sys, threading, time
from pathlib import Path
from edgeai.converters.onnx_package import export, open_source
from edgeai.converters.gguf_writer import write_gguf
from edgeai.converters.hf_writer import write_folder

def anonymous():
    line = next(line for line in open("/proc/self/status") if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024

def watch():
    while not done.wait(0.002):
        peaks.append(anonymous())

source, target, kind = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
before, peaks, done = anonymous(), [], threading.Event()
watcher = threading.Thread(target=watch)
watcher.start()
if kind.startswith("onnx"):
    export(source, target, quant=kind.removeprefix("onnx-"))
elif kind == "gguf":
    write_gguf(open_source(source), target, "f16")
elif kind.startswith("npu"):
    import numpy as np
    from edgeai.converters.npu import quantize
    from edgeai.converters.prefill_chunk import write_chunk

    target.mkdir()
    write_chunk(open_source(source), target / "plain.onnx", 64)
    feeds = [{"input_ids": np.arange(start, start + 64, dtype=np.int32)[None]} for start in (100, 9000)]
    quantize(target / "plain.onnx", target / "npu.onnx", kind.removeprefix("npu-"), feeds)
elif kind == "importance":
    from edgeai.converters.importance import importance

    importance(open_source(source), tokens=2048)
elif kind in ("awq_gptq", "mixed"):
    from edgeai.converters.fewer_bits import fewer_bits
    from edgeai.converters.halfway import Halfway

    tuned = fewer_bits(
        open_source(source), kind, max_context=2048, progress=lambda done, total: None,
        halfway=Halfway(target / "halfway"),
    )
    export(tuned, target / "package")
elif kind == "int8_dynamic":
    from edgeai.converters.fewer_bits import fewer_bits

    tuned = fewer_bits(open_source(source), kind, max_context=2048, progress=lambda done, total: None)
    export(tuned, target / "package")
elif kind == "blocks":
    write_gguf(open_source(source), target, "blocks")
else:
    target.mkdir()
    write_folder(open_source(source), target, "f32")
done.set()
watcher.join()
print(max(peaks) - before)
"""


def group_weights(source: Source) -> int:
    """Weights of the largest group: a layer's matrices, the embedding, or the head."""

    def size(role: str, layer: int | None) -> int:
        matrix = source.matrix(role, layer)
        return 0 if matrix is None else matrix.shape[0] * matrix.shape[1]

    layer = sum(size(role, 0) for role in _ROLES)
    return max(layer, size("embed", None), size("head", None))


def activations(source: Path) -> int:
    """Bytes of what is computed for 64 tokens in all layers, which ONNX Runtime's calibrator keeps at once.

    Its arena doubles as it grows.
    """
    d = open_source(source).decoder
    ffn = need(open_source(source), "gate", 0).shape[0]
    return 2 * d.n_layers * 64 * 4 * (10 * d.n_embd + 6 * ffn + 4 * d.n_heads * 64)


def calibration(source: Path, kind: str) -> int:
    """Bytes of what calibration holds: the states of its text, and what one layer makes of a window.

    A layer's matrices become floats and have a copy in ONNX Runtime; with GPTQ there are the sums of their
    inputs' products, the factor of their inverse, and what computes it. To rank sites all variants of the
    model go through its layers side by side.
    """
    opened = open_source(source)
    d, ffn = opened.decoder, need(opened, "gate", 0).shape[0]
    layer = 4 * sum(m.shape[0] * m.shape[1] for role in _ROLES if (m := opened.matrix(role, 0)) is not None)
    states = 2 * 16 * 512 * d.n_embd * 4
    window = 512 * 4 * (12 * d.n_embd + 6 * ffn + 512 * d.n_heads)
    products = 6 * 8 * ffn * ffn if kind != "importance" else 0
    variants = 2 * 4 * d.n_layers * 256 * d.n_embd * 4 if kind in ("mixed", "int8_dynamic") else 0
    logits = 4 * 64 * d.n_vocab * 8 if kind in ("mixed", "int8_dynamic") else 0
    return 3 * layer + states + 2 * window + products + variants + logits


def check(source: Path, target: Path, kind: str) -> None:
    """The peak of anonymous memory, less what the libraries take, against the bound."""
    command = [sys.executable, "-c", _MEASURE, str(source), str(target), kind]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    weights = group_weights(open_source(source))
    buffers = weights * 4 if kind == "onnx-f32" else weights * 9 // 8  # the group as it is written
    if kind.startswith("npu"):
        buffers += activations(source) + (64 << 20)  # and the nodes of all layers
    if kind in CALIBRATED:
        buffers += calibration(source, kind)
    peak = int(done.stdout)
    print(f"{kind}: {peak / 1e6:.0f} MB of {(1.3 * 4 * weights + buffers) / 1e6:.0f}")  # noqa: T201
    assert 0 < peak < 1.3 * 4 * weights + buffers, f"{kind}: {peak / 1e6:.0f} MB"


@pytest.mark.skipif(sys.platform != "linux", reason="anonymous memory is told by /proc")
def test_a_package_is_made_in_less_than_its_largest_group(model_path: Path, tmp_path: Path) -> None:
    """The default model for ONNX Runtime: below 1.3 times that group as floats, and the group packed."""
    check(model_path, tmp_path / "package", "onnx-auto")


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="anonymous memory is told by /proc")
@pytest.mark.parametrize(
    "kind", ["onnx-f32", "onnx-int8", "onnx-int4", "gguf", "blocks", "hf", "npu-a16w8", "npu-a8w8"]
)
def test_no_writer_holds_more(kind: str, model_path: Path, tmp_path: Path) -> None:
    """All of them."""
    check(model_path, tmp_path / "made", kind)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="anonymous memory is told by /proc")
@pytest.mark.parametrize("kind", CALIBRATED)
def test_calibration_holds_a_layer_at_a_time(kind: str, model_path: Path, tmp_path: Path) -> None:
    """What is looked at and what is rounded: the bound, and what one layer computes."""
    (tmp_path / "made").mkdir()
    check(model_path, tmp_path / "made", kind)
