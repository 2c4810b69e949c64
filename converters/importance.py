"""Importance matrices: how large each input of each matrix is on ordinary text, for llama.cpp's quantizers.

A quantizer that knows them keeps small the errors that are multiplied with large inputs. The inputs are read
from the float graph of the same model.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgeai.converters.decoder import Decoder, Floats
from edgeai.converters.onnx_package import export, open_source
from edgeai.converters.running import cores, package_ids
from edgeai.converters.texts import calibration_text
from edgeai.engines import DevicePlan
from edgeai.engines.onnx.session import Session, Stop, give_back, value
from edgeai.errors import ModelUnsupported

__all__ = ["importance"]

_WINDOW = 256
_TAPS = {"q": "attn_norm.out", "k": "attn_norm.out", "v": "attn_norm.out", "gate": "ffn_norm.out"} | {
    "up": "ffn_norm.out",
    "down": "gated",
}
_GGUF = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output"} | {
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}


def importance(
    path: Path,
    work: Path,
    *,
    tokens: int = 4096,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Floats]:
    """By tensor of the GGUF file, the mean square of each input over ``tokens`` tokens of calibration text.

    ``path`` is the source, ``work`` a folder for the graph. The text shares no topic with that of proofs.
    Raises ModelUnsupported for architectures that the graph's builder does not know, and MissingExtra.
    """
    graph = work / "inputs"
    if not graph.exists():
        export(path, graph, quant="f32", max_context=_WINDOW)
    decoder = open_source(path).decoder
    taps = _add_taps(graph, decoder)
    ids = package_ids(graph, calibration_text()[: 8 * tokens], decoder.n_vocab)[:tokens]
    sums: dict[str, NDArray[np.float64]] = {tap: np.zeros(()) for tap in taps.values()}
    session, done = Session(graph / "taps.onnx", DevicePlan(n_ctx=_WINDOW, n_threads=cores())), 0
    for start in range(0, len(ids), _WINDOW):
        window = ids[start : start + _WINDOW]
        for name, rows in _run(session, window, decoder, list(sums)):
            sums[name] = sums[name] + np.square(rows.reshape(-1, rows.shape[-1]), dtype=np.float64).sum(
                axis=0
            )
        done += len(window)
        progress(done, len(ids))
    del session
    give_back()
    return {name: (sums[tap] / done).astype(np.float32) for name, tap in taps.items()}


def _add_taps(graph: Path, d: Decoder) -> Mapping[str, str]:
    """Write the graph once more, with all inputs of matrices as outputs; by tensor, the name of its input."""
    taps = dict(_names(d))
    model = onnx.load(graph / "model.onnx", load_external_data=False)
    known = {name for node in model.graph.node for name in node.output}
    missing = sorted(set(taps.values()) - known)
    if missing:
        raise ModelUnsupported("The graph has no inputs to weigh by", why=f"There is no {missing[0]}")
    outputs = {output.name for output in model.graph.output}
    for name in sorted(set(taps.values()) - outputs):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    onnx.save_model(model, graph / "taps.onnx")
    return taps


def _names(d: Decoder) -> Iterator[tuple[str, str]]:
    packed = d.architecture == "phi3"
    for i in range(d.n_layers):
        attended = "attended.wanted" if i == d.n_layers - 1 else f"layer.{i}.attention"
        for role, name in _GGUF.items():
            if packed and role in ("q", "k", "v", "gate"):
                continue
            yield f"blk.{i}.{name}.weight", f"layer.{i}.{_TAPS[role]}" if role in _TAPS else attended
        if packed:
            yield f"blk.{i}.attn_qkv.weight", f"layer.{i}.attn_norm.out"
    yield "output.weight", "hidden_state"


def _run(
    session: Session, ids: Sequence[int], d: Decoder, wanted: Sequence[str]
) -> Iterator[tuple[str, Floats]]:
    """One window from its beginning; all positions' values of the wanted names."""
    n = len(ids)
    feeds: dict[str, NDArray[Any]] = {
        "input_ids": np.array([ids], np.int64),
        "seqlens_k": np.array([n - 1], np.int32),
        "total_sequence_length": np.array(n, np.int32),
        "logits_index": np.arange(n, dtype=np.int64),
    }
    binding = session.new_binding()
    for name, array in feeds.items():
        binding.input(name, value(array))
    cache = [np.zeros((1, d.n_kv_heads, n, d.head_dim), np.float32) for _ in range(2 * d.n_layers)]
    for i, array in enumerate(cache):
        kind, bound = ("key", "value")[i % 2], value(array)
        binding.input(f"past_key_values.{i // 2}.{kind}", bound)
        binding.output(f"present.{i // 2}.{kind}", bound)
    for name in wanted:
        binding.new_output(name)
    binding.run(Stop(), partly=True)
    found = binding.outputs()[-len(wanted) :]
    yield from (
        (name, np.asarray(output.numpy(), np.float32)) for name, output in zip(wanted, found, strict=True)
    )
