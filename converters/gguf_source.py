"""Read a GGUF file as a decoder. The only importer of `gguf`."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeai.converters.blocks import FORMATS, Blocks, unpack
from edgeai.converters.decoder import Decoder, Floats, Matrix, Rope, TokenizerData
from edgeai.converters.gguf_tokenizer import tokenizer_of
from edgeai.errors import MissingExtra, ModelCorrupt, ModelNotFound, ModelUnsupported

try:
    import gguf
except ImportError as error:
    raise MissingExtra("Reading GGUF files needs gguf", extra="convert") from error

_FLOATS = ("F32", "F16", "BF16")
_ARCHITECTURES = {"llama", "qwen2", "qwen3", "gemma3", "phi3"}
_GEMMA_PATTERN = 6  # every sixth layer of Gemma 3 attends to everything
_NAMES = {
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


@dataclass(frozen=True, slots=True)
class GgufMatrix:
    """Rows of a tensor in the file, in the order ``order``, or as they lie."""

    raw: NDArray[Any]
    kind: str
    shape: tuple[int, int]
    order: NDArray[np.intp] | None = None

    def rows(self, start: int, stop: int) -> Blocks | Floats:
        """Rows ``start`` to ``stop``."""
        raw = self.raw[start:stop] if self.order is None else self.raw[self.order[start:stop]]
        raw = np.ascontiguousarray(raw)
        if self.kind in FORMATS:
            return unpack(self.kind, raw.view(np.uint8))
        if self.kind == "BF16":
            return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        return raw.astype(np.float32, copy=False)


class GgufSource:
    """An open GGUF file. Raises ModelNotFound, ModelCorrupt or ModelUnsupported."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader = _open(path)
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self._arch = str(self._field("general.architecture", ""))
        if self._arch not in _ARCHITECTURES:
            raise ModelUnsupported(
                f"The architecture {self._arch!r} cannot be converted",
                why=f"The converter knows {', '.join(sorted(_ARCHITECTURES))} (mistral files say llama)",
                remedy="Run the GGUF file with the llamacpp engine",
            )
        self._refuse_unknown()
        self.decoder = self._read_decoder()

    @property
    def provenance(self) -> Mapping[str, Any]:
        """The file's name, size and hash, and the number formats in it."""
        with self._path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        kinds: dict[str, int] = {}
        for tensor in self._reader.tensors:
            kinds[tensor.tensor_type.name] = kinds.get(tensor.tensor_type.name, 0) + 1
        return {
            "format": "gguf",
            "file": self._path.name,
            "size": self._path.stat().st_size,
            "sha256": digest,
            "tensors": kinds,
        }

    @property
    def n_parameters(self) -> int:
        """Weights in all."""
        return sum(int(tensor.n_elements) for tensor in self._reader.tensors)

    def matrix(self, role: str, layer: int | None = None) -> Matrix | None:
        """The matrix of that role, with rows in the order of the plain split-half rotary embedding."""
        whole = self._packed(role, layer) or self._tensor(_NAMES[role].format(layer))
        if whole is None:
            return None
        order = self._order(role, whole.shape[0])
        return GgufMatrix(whole.raw, whole.kind, whole.shape, order) if order is not None else whole

    def vector(self, role: str, layer: int | None = None) -> Floats | None:
        """The vector of that role, as floats."""
        values = self._floats(_NAMES[role].format(layer))
        if values is None:
            return self._packed_bias(role, layer)
        order = self._order(role.removesuffix("_bias"), len(values))
        return values if order is None else values[order]

    def tokenizer(self) -> TokenizerData:
        """The tokenizer, written anew from the file's metadata."""
        return tokenizer_of(self._field)

    def _field(self, key: str, default: Any = None) -> Any:
        found = self._reader.fields.get(key)
        return default if found is None else found.contents()

    def _own(self, key: str, default: Any = None) -> Any:
        return self._field(f"{self._arch}.{key}", default)

    def _need(self, key: str) -> Any:
        value = self._own(key)
        if value is None:
            raise ModelCorrupt(f"{self._path.name} lacks {self._arch}.{key}")
        return value

    def _refuse_unknown(self) -> None:
        """Refuse what the builder would silently leave out."""
        if self._own("expert_count", 0):
            raise ModelUnsupported("Mixtures of experts cannot be converted", remedy="Use the llamacpp engine")
        kinds = {tensor.tensor_type.name for tensor in self._reader.tensors}
        unknown = kinds - set(FORMATS) - set(_FLOATS)
        if unknown:
            raise ModelUnsupported(
                f"The number format {', '.join(sorted(unknown))} cannot be converted",
                why=f"The converter reads {', '.join([*FORMATS, *_FLOATS])}",
                remedy="Run the GGUF file with the llamacpp engine",
            )
        known = {name.format(i) for name in _NAMES.values() for i in range(int(self._need("block_count")))}
        known |= {f"blk.{i}.attn_qkv.{end}" for i in range(int(self._need("block_count"))) for end in ("weight", "bias")}
        known |= {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}
        strange = sorted(set(self._tensors) - known)
        if strange:
            raise ModelUnsupported(
                f"{self._path.name} has tensors that the converter does not know",
                why=", ".join(strange[:5]),
                remedy="Run the GGUF file with the llamacpp engine",
            )

    def _read_decoder(self) -> Decoder:
        n_embd, n_heads = int(self._need("embedding_length")), self._heads("attention.head_count")
        n_layers = int(self._need("block_count"))
        head_dim = int(self._own("attention.key_length", n_embd // n_heads))
        if int(self._own("attention.value_length", head_dim)) != head_dim:
            raise ModelUnsupported("Keys and values of different length cannot be converted")
        embed = self.matrix("embed")
        if embed is None:
            raise ModelCorrupt(f"{self._path.name} has no token embedding")
        windows = self._windows(n_layers)
        ropes, max_positions = self._ropes(head_dim, windows)
        gemma = self._arch == "gemma3"
        return Decoder(
            architecture=self._arch,
            name=str(self._field("general.name", self._path.stem)),
            n_layers=n_layers,
            n_embd=n_embd,
            n_heads=n_heads,
            n_kv_heads=self._heads("attention.head_count_kv", n_heads),
            head_dim=head_dim,
            n_ff=int(self._need("feed_forward_length")),
            n_vocab=embed.shape[0],
            max_positions=max_positions,
            norm_eps=float(self._need("attention.layer_norm_rms_epsilon")),
            ropes=ropes,
            windows=windows,
            activation="gelu_tanh" if gemma else "silu",
            embedding_scale=math.sqrt(n_embd) if gemma else 1.0,
            # llama.cpp's rule: the 27B model alone divides by the mean head width
            attention_scale=(n_embd / n_heads) ** -0.5 if gemma and n_layers == 62 else None,
            attention_softcap=float(self._own("attn_logit_softcapping", 0.0)),
            logit_softcap=float(self._own("final_logit_softcapping", 0.0)),
            licence=self._field("general.license"),
        )

    def _heads(self, key: str, default: int | None = None) -> int:
        value = self._need(key) if default is None else self._own(key, default)
        if isinstance(value, list):
            if len(set(value)) != 1:
                raise ModelUnsupported("Layers with different numbers of heads cannot be converted")
            value = value[0]
        return int(value)

    def _windows(self, n_layers: int) -> tuple[int | None, ...]:
        """Sliding windows as llama.cpp applies them: Gemma 3 only."""
        window = int(self._own("attention.sliding_window", 0))
        if self._arch != "gemma3" or not window:
            return (None,) * n_layers
        pattern = self._own("attention.sliding_window_pattern", _GEMMA_PATTERN)
        if isinstance(pattern, list):
            return tuple(window if sliding else None for sliding in pattern)
        return tuple(None if (i + 1) % int(pattern) == 0 else window for i in range(n_layers))

    def _ropes(self, head_dim: int, windows: tuple[int | None, ...]) -> tuple[tuple[Rope, ...], int]:
        """The rotary embedding of each layer, and the longest context they are good for."""
        n_positions = int(self._need("context_length"))
        kind = self._own("rope.scaling.type", "none")
        factor = float(self._own("rope.scaling.factor", 1.0) or 1.0)
        if kind not in ("none", "linear", "longrope"):
            raise ModelUnsupported(f"The rotary scaling {kind!r} cannot be converted", remedy="Use the llamacpp engine")
        short = self._floats("rope_factors_short.weight")
        if short is not None:  # beyond the original context other factors hold: stay within it
            n_positions = int(self._own("rope.scaling.original_context_length", n_positions))
        factors = short if short is not None else self._floats("rope_freqs.weight")
        everywhere = Rope(
            base=float(self._own("rope.freq_base", 10000.0)),
            dim=int(self._own("rope.dimension_count", head_dim)),
            scale=1 / factor if kind == "linear" else 1.0,
            magnitude=float(self._own("rope.scaling.attn_factor", 1.0)) if short is not None else 1.0,
            factors=None if factors is None else tuple(float(x) for x in factors),
        )
        local_base = float(self._own("rope.freq_base_swa", 10000.0))
        local = Rope(base=local_base, dim=everywhere.dim)
        return tuple(everywhere if window is None else local for window in windows), n_positions

    def _tensor(self, name: str) -> GgufMatrix | None:
        tensor = self._tensors.get(name)
        if tensor is None:
            return None
        if len(tensor.shape) != 2:
            raise ModelCorrupt(f"{self._path.name}: {name} has {len(tensor.shape)} dimensions, expected 2")
        n_columns, n_rows = (int(n) for n in tensor.shape)
        return GgufMatrix(tensor.data, tensor.tensor_type.name, (n_rows, n_columns))

    def _floats(self, name: str) -> Floats | None:
        tensor = self._tensors.get(name)
        if tensor is None:
            return None
        row = GgufMatrix(tensor.data.reshape(1, -1), tensor.tensor_type.name, (1, tensor.n_elements)).rows(0, 1)
        return (row.floats() if isinstance(row, Blocks) else row).reshape(-1)

    def _packed(self, role: str, layer: int | None) -> GgufMatrix | None:
        """A slice of Phi 3's packed matrices."""
        name = {"q": "attn_qkv", "k": "attn_qkv", "v": "attn_qkv", "gate": "ffn_up", "up": "ffn_up"}.get(role)
        if name is None or (name == "ffn_up" and self._arch != "phi3"):
            return None
        whole = self._tensor(f"blk.{layer}.{name}.weight")
        if whole is None:
            return None
        part = self._part(role)
        return GgufMatrix(whole.raw[part], whole.kind, (part.stop - part.start, whole.shape[1]))

    def _packed_bias(self, role: str, layer: int | None) -> Floats | None:
        if role not in ("q_bias", "k_bias", "v_bias"):
            return None
        whole = self._floats(f"blk.{layer}.attn_qkv.bias")
        return None if whole is None else whole[self._part(role[0])]

    def _part(self, role: str) -> slice:
        d = self.decoder
        n_q, n_kv = d.n_heads * d.head_dim, d.n_kv_heads * d.head_dim
        starts = {"q": (0, n_q), "k": (n_q, n_kv), "v": (n_q + n_kv, n_kv), "gate": (0, d.n_ff), "up": (d.n_ff, d.n_ff)}
        start, length = starts[role]
        return slice(start, start + length)

    def _order(self, role: str, n_rows: int) -> NDArray[np.intp] | None:
        """Llama's query and key rows are stored for interleaved rotation: the way back to split halves."""
        if self._arch != "llama" or role not in ("q", "k"):
            return None
        n_heads = self.decoder.n_heads if role == "q" else self.decoder.n_kv_heads
        return np.arange(n_rows).reshape(n_heads, -1, 2).swapaxes(1, 2).reshape(-1)


def _open(path: Path) -> Any:
    if not path.is_file():
        raise ModelNotFound(f"There is no file {path}")
    try:
        return gguf.GGUFReader(path)
    # the reader indexes into what it reads, so damage shows as any of these
    except (ValueError, KeyError, IndexError, OverflowError, TypeError, OSError, UnicodeDecodeError) as error:
        raise ModelCorrupt(f"{path.name} is not a readable GGUF file", why=str(error)) from error
