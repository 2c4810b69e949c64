"""Read a GGUF file as a decoder."""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeai.converters.blocks import FORMATS
from edgeai.converters.decoder import Decoder, Floats, Matrix, Rope, TokenizerData
from edgeai.converters.gguf_file import FLOATS, GgufFile, GgufMatrix
from edgeai.converters.gguf_tokenizer import tokenizer_of
from edgeai.errors import ModelCorrupt, ModelUnsupported

_ARCHITECTURES = {"llama", "qwen2", "qwen3", "gemma3", "phi3"}
_REMEDY = "Run the GGUF file with the llamacpp engine"
_ROPE_NAMES = {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}
_PACKED_NAMES = ("blk.{}.attn_qkv.weight", "blk.{}.attn_qkv.bias")
_GEMMA_PATTERN = 6  # every sixth layer of Gemma 3 attends to everything
NAMES = {
    "embed": "token_embd.weight",
    "head": "output.weight",
    "final_norm": "output_norm.weight",
    "q": "blk.{}.attn_q.weight",
    "k": "blk.{}.attn_k.weight",
    "v": "blk.{}.attn_v.weight",
    "o": "blk.{}.attn_output.weight",
    "q_bias": "blk.{}.attn_q.bias",
    "k_bias": "blk.{}.attn_k.bias",
    "v_bias": "blk.{}.attn_v.bias",
    "o_bias": "blk.{}.attn_output.bias",
    "q_norm": "blk.{}.attn_q_norm.weight",
    "k_norm": "blk.{}.attn_k_norm.weight",
    "attn_norm": "blk.{}.attn_norm.weight",
    "ffn_norm": "blk.{}.ffn_norm.weight",
    "post_attn_norm": "blk.{}.post_attention_norm.weight",
    "post_ffn_norm": "blk.{}.post_ffw_norm.weight",
    "gate": "blk.{}.ffn_gate.weight",
    "up": "blk.{}.ffn_up.weight",
    "down": "blk.{}.ffn_down.weight",
}


class GgufSource:
    """An open GGUF file. Raises ModelNotFound, ModelCorrupt or ModelUnsupported."""

    def __init__(self, path: Path) -> None:
        self._file = GgufFile(path)
        self._arch = self._file.text("general.architecture") or ""
        if self._arch not in _ARCHITECTURES:
            raise ModelUnsupported(
                f"The architecture {self._arch!r} cannot be converted",
                why=f"The converter knows {', '.join(sorted(_ARCHITECTURES))} (mistral files say llama)",
                remedy=_REMEDY,
            )
        self._refuse_unknown()
        self.decoder = self._read_decoder()

    @property
    def provenance(self) -> Mapping[str, str | int | Mapping[str, int]]:
        """The file's name, size and hash, and how many tensors have which number format."""
        return {
            "format": "gguf",
            "file": self._file.path.name,
            "size": self._file.path.stat().st_size,
            "sha256": self._file.sha256,
            "tensors": dict(Counter(self._file.tensors.values())),
        }

    @property
    def n_parameters(self) -> int:
        """Weights in all."""
        return self._file.n_parameters

    def matrix(self, role: str, layer: int | None = None) -> Matrix | None:
        """The matrix of that role, with rows in the order of the plain split-half rotary embedding."""
        whole = self._packed(role, layer) or self._file.matrix(NAMES[role].format(layer))
        if whole is None:
            return None
        order = self._order(role, whole.shape[0])
        return GgufMatrix(whole.raw, whole.kind, whole.shape, order) if order is not None else whole

    def vector(self, role: str, layer: int | None = None) -> Floats | None:
        """The vector of that role, as floats."""
        values = self._file.floats(NAMES[role].format(layer))
        if values is None:
            return self._packed_bias(role, layer)
        order = self._order(role.removesuffix("_bias"), len(values))
        return values if order is None else values[order]

    def tokenizer(self) -> TokenizerData:
        """The tokenizer, written anew from the file's metadata."""
        return tokenizer_of(self._file)

    def _number(self, key: str, default: float) -> float:
        found = self._file.number(f"{self._arch}.{key}")
        return default if found is None else found

    def _need(self, key: str) -> float:
        value = self._file.number(f"{self._arch}.{key}")
        if value is None:
            raise ModelUnsupported(
                f"{self._file.path.name} has no single {self._arch}.{key}",
                why="The converter needs one number for all layers",
                remedy=_REMEDY,
            )
        return value

    def _refuse_unknown(self) -> None:
        """Refuse what the builder would silently leave out."""
        if self._number("expert_count", 0):
            raise ModelUnsupported("Mixtures of experts cannot be converted", remedy=_REMEDY)
        formats = (*FORMATS, *FLOATS)
        unknown = sorted(set(self._file.tensors.values()).difference(formats))
        if unknown:
            raise ModelUnsupported(
                f"The number format {', '.join(unknown)} cannot be converted",
                why=f"The converter reads {', '.join(formats)}",
                remedy=_REMEDY,
            )
        layers = range(int(self._need("block_count")))
        known = {name.format(i) for name in (*NAMES.values(), *_PACKED_NAMES) for i in layers}
        strange = sorted(set(self._file.tensors) - known - _ROPE_NAMES)
        if strange:
            raise ModelUnsupported(
                f"{self._file.path.name} has tensors that the converter does not know",
                why=", ".join(strange[:5]),
                remedy=_REMEDY,
            )

    def _read_decoder(self) -> Decoder:
        n_embd, n_heads = int(self._need("embedding_length")), int(self._need("attention.head_count"))
        n_layers = int(self._need("block_count"))
        head_dim = int(self._number("attention.key_length", n_embd // n_heads))
        if self._number("attention.value_length", head_dim) != head_dim:
            raise ModelUnsupported("Keys and values of different length cannot be converted", remedy=_REMEDY)
        embed = self.matrix("embed")
        if embed is None:
            raise ModelCorrupt(f"{self._file.path.name} has no token embedding")
        windows = self._windows(n_layers)
        ropes, max_positions = self._ropes(head_dim, windows)
        gemma = self._arch == "gemma3"
        return Decoder(
            architecture=self._arch,
            name=self._file.text("general.name") or self._file.path.stem,
            n_layers=n_layers,
            n_embd=n_embd,
            n_heads=n_heads,
            n_kv_heads=int(self._number("attention.head_count_kv", n_heads)),
            head_dim=head_dim,
            n_ff=int(self._need("feed_forward_length")),
            n_vocab=embed.shape[0],
            max_positions=max_positions,
            norm_eps=self._need("attention.layer_norm_rms_epsilon"),
            ropes=ropes,
            windows=windows,
            activation="gelu_tanh" if gemma else "silu",
            embedding_scale=math.sqrt(n_embd) if gemma else 1.0,
            # llama.cpp's rule: the 27B model alone divides by the mean head width
            attention_scale=(n_embd / n_heads) ** -0.5 if gemma and n_layers == 62 else None,
            attention_softcap=self._number("attn_logit_softcapping", 0.0),
            logit_softcap=self._number("final_logit_softcapping", 0.0),
            licence=self._file.text("general.license"),
        )

    def _windows(self, n_layers: int) -> tuple[int | None, ...]:
        """Sliding windows as llama.cpp applies them: Gemma 3 only."""
        window = int(self._number("attention.sliding_window", 0))
        if self._arch != "gemma3" or not window:
            return (None,) * n_layers
        pattern = self._file.numbers(f"{self._arch}.attention.sliding_window_pattern")
        if pattern is not None:
            return tuple(window if sliding else None for sliding in pattern)
        period = int(self._number("attention.sliding_window_pattern", _GEMMA_PATTERN))
        return tuple(None if (i + 1) % period == 0 else window for i in range(n_layers))

    def _ropes(self, head_dim: int, windows: tuple[int | None, ...]) -> tuple[tuple[Rope, ...], int]:
        """The rotary embedding of each layer, and the longest context they are good for."""
        n_positions = int(self._need("context_length"))
        kind = self._file.text(f"{self._arch}.rope.scaling.type") or "none"
        if kind not in ("none", "linear", "longrope"):
            raise ModelUnsupported(f"The rotary scaling {kind!r} cannot be converted", remedy=_REMEDY)
        short = self._file.floats("rope_factors_short.weight")
        if short is not None:  # beyond the original context other factors hold: stay within it
            n_positions = int(self._number("rope.scaling.original_context_length", n_positions))
        factors = short if short is not None else self._file.floats("rope_freqs.weight")
        everywhere = Rope(
            base=self._number("rope.freq_base", 10000.0),
            dim=int(self._number("rope.dimension_count", head_dim)),
            scale=1 / (self._number("rope.scaling.factor", 1.0) or 1.0) if kind == "linear" else 1.0,
            magnitude=self._number("rope.scaling.attn_factor", 1.0) if short is not None else 1.0,
            factors=None if factors is None else tuple(float(x) for x in factors),
        )
        local = Rope(base=self._number("rope.freq_base_swa", 10000.0), dim=everywhere.dim)
        return tuple(everywhere if window is None else local for window in windows), n_positions

    def _packed(self, role: str, layer: int | None) -> GgufMatrix | None:
        """A slice of Phi 3's packed matrices."""
        name = {"q": "attn_qkv", "k": "attn_qkv", "v": "attn_qkv", "gate": "ffn_up", "up": "ffn_up"}.get(role)
        if name is None or (name == "ffn_up" and self._arch != "phi3"):
            return None
        whole = self._file.matrix(f"blk.{layer}.{name}.weight")
        if whole is None:
            return None
        part = self._part(role)
        return GgufMatrix(whole.raw[part], whole.kind, (part.stop - part.start, whole.shape[1]))

    def _packed_bias(self, role: str, layer: int | None) -> Floats | None:
        if role not in ("q_bias", "k_bias", "v_bias"):
            return None
        whole = self._file.floats(f"blk.{layer}.attn_qkv.bias")
        return None if whole is None else whole[self._part(role[0])]

    def _part(self, role: str) -> slice:
        d = self.decoder
        n_q, n_kv = d.n_heads * d.head_dim, d.n_kv_heads * d.head_dim
        starts = {
            "q": (0, n_q),
            "k": (n_q, n_kv),
            "v": (n_q + n_kv, n_kv),
            "gate": (0, d.n_ff),
            "up": (d.n_ff, d.n_ff),
        }
        start, length = starts[role]
        return slice(start, start + length)

    def _order(self, role: str, n_rows: int) -> NDArray[np.intp] | None:
        """Llama's query and key rows are stored for interleaved rotation: the way back to split halves."""
        if self._arch != "llama" or role not in ("q", "k"):
            return None
        n_heads = self.decoder.n_heads if role == "q" else self.decoder.n_kv_heads
        return np.arange(n_rows).reshape(n_heads, -1, 2).swapaxes(1, 2).reshape(-1)
