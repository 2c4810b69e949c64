"""Runs a converted graph as an engine does: with one buffer as past and present."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class GraphRunner:
    """A session with its key-value buffers for one or more sequences of ``n_ctx`` tokens."""

    def __init__(self, folder: Path, *, n_ctx: int = 128, batch: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(folder / "model.onnx", options, ["CPUExecutionProvider"])
        pasts = [value for value in self._session.get_inputs() if value.name.startswith("past")]
        shapes = {value.name: (batch, value.shape[1], n_ctx, value.shape[3]) for value in pasts}
        self._cache = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
            for name, shape in shapes.items()
        }

    def run(
        self, ids: Sequence[Sequence[int]], past: int | Sequence[int], wanted: Sequence[int]
    ) -> tuple[Floats, Floats]:
        """Feed the tokens after ``past`` earlier ones; logits and hidden states of the wanted positions."""
        tokens = np.asarray(ids, np.int64)
        lengths = np.broadcast_to(np.asarray(past), len(tokens)) + tokens.shape[1]
        binding = self._session.io_binding()
        binding.bind_cpu_input("input_ids", tokens)
        binding.bind_cpu_input("seqlens_k", (lengths - 1).astype(np.int32))
        binding.bind_cpu_input("total_sequence_length", np.array(lengths.max(), np.int32))
        binding.bind_cpu_input("logits_index", np.asarray(wanted, np.int64))
        binding.bind_output("logits", "cpu")
        binding.bind_output("hidden_state", "cpu")
        for name, value in self._cache.items():
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(name.replace("past_key_values", "present"), value)
        self._session.run_with_iobinding(binding)
        logits, hidden = binding.get_outputs()[:2]
        return logits.numpy(), hidden.numpy()

    def cached(self, n_tokens: int) -> dict[str, Floats]:
        """The first tokens' keys and values, by the names that they have as outputs."""
        return {
            name.replace("past_key_values", "present"): value.numpy()[:, :, :n_tokens]
            for name, value in self._cache.items()
        }
