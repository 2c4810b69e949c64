"""LoRA adapters with random weights, strong enough to change what a model says."""

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np

from edgeai.models.gguf import read_header

RANK = 2


def write_lora(
    path: Path,
    model: Path,
    *,
    seed: int = 0,
    alpha: float = 8.0,
    architecture: str | None = None,
    kind: str = "lora",
    reshape: Mapping[str, tuple[int, int]] | None = None,
) -> Path:
    """Write an adapter of the attention outputs of the model at ``model`` to ``path``, which is returned.

    ``reshape`` gives halves, by name, another shape (rows, columns) than the model's.
    """
    header = read_header(model)
    writer = gguf.GGUFWriter(path, architecture or header.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, kind)
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    random = np.random.default_rng(seed)
    for layer in range(header.n_layer):
        name = f"blk.{layer}.attn_output.weight"
        for half, shape in {".lora_a": (RANK, header.n_embd), ".lora_b": (header.n_embd, RANK)}.items():
            shape = (reshape or {}).get(name + half, shape)
            writer.add_tensor(name + half, random.normal(0, 0.1, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
