"""How much memory a model will take, told from its files before it is loaded.

The terms, of which the calculators that are about leave out all but the first two: the weights, the keys and
values of the whole context, the tokenizer's tables (most of the rest for models below a billion parameters),
the buffers of the computation, and the code of the engine. The constants were fitted to resident sizes on
Linux; `python -m benchmarks memory` compares both. Bytes of weights on llama.cpp are mapped from the file, so
that the system can drop them and read them again; all else cannot be dropped.
"""

import platform
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from edgeai.devices.profiles import KvType
from edgeai.engines.cells import pool
from edgeai.engines.context import MAX_OUTPUTS
from edgeai.models.gguf import GgufHeader, read_header
from edgeai.models.shelf import InstalledModel

__all__ = ["Footprint", "Needs", "needs"]

MB: Final = 1_000_000
# Bytes of one key or value: q8_0 stores 32 of them in 34.
KV_BYTES: Final[dict[KvType, float]] = {"f16": 2, "q8_0": 34 / 32}
# Tokens that an engine computes at once.
BATCH: Final = 256
# Bytes a token of the vocabulary: llama.cpp's tables, with merges or scores only; and Hugging Face's.
BPE: Final = 520
SPM: Final = 320
HF: Final = 1020
# Imported libraries and what they allocate at once, for each engine.
LLAMACPP_CODE: Final = 22 * MB
ONNX_CODE: Final = 38 * MB
# ONNX Runtime packs weights for the processor one by one; this share of scratch space stays with it.
PACKING: Final = 0.10
# Arm's processors compute with floats of 16 bits; on others ONNX Runtime widens weights when it loads.
HAS_HALF: Final = platform.machine().lower() in ("aarch64", "arm64")
# Of the weights, while a second session is made beside the first; afterwards it maps the same file.
SPARE: Final = 2.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes that become resident, by what they are for."""

    weights: int
    kv_cache: int
    tokenizer: int
    buffers: int
    code: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv_cache + self.tokenizer + self.buffers + self.code


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What of a footprint depends on the context: bytes, and how many KV values a token has.

    ``kv_types``: what the engine can store those values as, the usual one first. ``pooled``: queries at once
    share the cells of `edgeai.engines.cells.pool`. ``spare``: bytes that the making of a second session with
    fewer threads takes for a second, where the engine needs one. What llama.cpp can put on a GPU: the weights
    of each of the ``blocks``, and of the ``output`` behind them, of ``n_vocab`` logits; ``tied``: it is the
    table of the input, too, which stays with the processor.
    """

    weights: int
    tokenizer: int
    code: int
    buffers: int
    buffers_per_token: float
    kv_values_per_token: int
    kv_value_bytes: float
    kv_types: tuple[KvType, ...]
    pooled: bool
    spare: int = 0
    blocks: tuple[int, ...] = ()
    output: int = 0
    tied: bool = False
    n_vocab: int = 0

    @property
    def layers(self) -> int:
        """As llama.cpp counts: the blocks, and the output."""
        return len(self.blocks) + 1

    def on_gpu(
        self, layers: int | None, n_ctx: int, kv_type: KvType = "f16", *, parallel: int | None = None
    ) -> int:
        """Bytes of the last ``layers`` (None: all) there: weights, keys and values, buffers."""
        if layers == 0:
            return 0
        moved = self.moved(layers, n_ctx, kv_type, parallel=parallel)
        buffers = self.at(n_ctx, kv_type, parallel=parallel).buffers + MAX_OUTPUTS * self.n_vocab * 4
        return moved + buffers + (self.output if self.tied else 0)

    def moved(
        self, layers: int | None, n_ctx: int, kv_type: KvType = "f16", *, parallel: int | None = None
    ) -> int:
        """Bytes of them that a GPU with memory of its own takes off the machine's."""
        if layers == 0:
            return 0
        count = len(self.blocks) if layers is None else min(layers - 1, len(self.blocks))
        kv_cache = self.at(n_ctx, kv_type, parallel=parallel).kv_cache * count // max(1, len(self.blocks))
        weights = sum(self.blocks[len(self.blocks) - count :])
        return weights + kv_cache + (0 if self.tied else self.output)

    def at(self, n_ctx: int, kv_type: KvType = "f16", *, parallel: int | None = None) -> Footprint:
        """The footprint with contexts of so many tokens, and ``parallel`` queries at once."""
        cells = pool(n_ctx, parallel) if self.pooled else n_ctx
        value = self.kv_value_bytes if kv_type == "f16" else KV_BYTES[kv_type]
        return Footprint(
            weights=self.weights,
            kv_cache=round(cells * self.kv_values_per_token * value),
            tokenizer=self.tokenizer,
            buffers=round(self.buffers + cells * self.buffers_per_token),
            code=self.code,
        )


def needs(model: InstalledModel) -> Needs:
    """Read from the model's header, once a process. Raises ModelError's leaves."""
    return _needs(model.path, model.manifest.engine, model.manifest.size)


@lru_cache(maxsize=64)
def _needs(path: Path, engine: str, size: int) -> Needs:
    """``size`` tells another file of the same name apart."""
    return _gguf(read_header(path)) if engine == "llamacpp" else _onnx(path)


def _gguf(header: GgufHeader) -> Needs:
    tokenizer = BPE if header.metadata.get("tokenizer.ggml.model") == "gpt2" else SPM
    inner = header.metadata.get(f"{header.architecture}.feed_forward_length", 4 * header.n_embd)
    widest = max(inner) if isinstance(inner, tuple) else inner
    in_blocks = header.head_dim_k % 32 == 0 and header.head_dim_v % 32 == 0
    activations = BATCH * (4 * header.n_embd + 2 * int(widest)) * 4
    blocks = [0] * header.n_layer
    for tensor in header.tensors:
        block = tensor.name.split(".")[1] if tensor.name.startswith("blk.") else ""
        if block.isdecimal() and int(block) < header.n_layer:
            blocks[int(block)] += tensor.size
    sizes = {tensor.name: tensor.size for tensor in header.tensors}
    return Needs(
        weights=sum(sizes.values()),
        blocks=tuple(blocks),
        output=sizes.get("output.weight", sizes.get("token_embd.weight", 0)),
        tied="output.weight" not in sizes,
        n_vocab=header.n_vocab,
        tokenizer=header.n_vocab * tokenizer,
        code=LLAMACPP_CODE,
        buffers=activations,
        buffers_per_token=BATCH * 4,  # the mask of the attention
        kv_values_per_token=header.n_layer * header.n_head_kv * (header.head_dim_k + header.head_dim_v),
        kv_value_bytes=KV_BYTES["f16"],
        kv_types=("f16", "q8_0") if in_blocks else ("f16",),
        pooled=True,
    )


def _onnx(path: Path) -> Needs:
    from edgeai.engines import onnx

    shape = onnx.measure(path)
    return Needs(
        weights=shape.weights + (0 if HAS_HALF else shape.halves),
        tokenizer=shape.n_vocab * HF,
        code=ONNX_CODE,
        buffers=round(2 * BATCH * 8 * shape.n_embd * 4 + PACKING * shape.weights),
        buffers_per_token=BATCH * 8,
        kv_values_per_token=shape.kv_values_per_token,
        kv_value_bytes=shape.kv_value_bytes,
        kv_types=("f16",),
        pooled=False,
        spare=round(SPARE * shape.weights),
    )
