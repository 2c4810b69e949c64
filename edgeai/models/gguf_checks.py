"""Compares the numbers of a GGUF header with one another.

Most of these rules are assertions in llama.cpp, that is, a dead process; the rest are models that would
load and then answer nonsense.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from edgeai.errors import ModelCorrupt, ModelUnsupported
from edgeai.models.gguf_reader import STRING, Array, TensorInfo, Value

__all__ = ["ARCHITECTURES", "Shape", "check", "quantization_label"]

# Decoders of attention and feed-forward blocks, to which the rules below apply.
ARCHITECTURES = {
    "arcee",
    "exaone",
    "exaone4",
    "ernie4_5",
    "falcon",
    "gemma",
    "gemma2",
    "gemma3",
    "gpt2",
    "gptneox",
    "granite",
    "granitemoe",
    "hunyuan-dense",
    "internlm2",
    "lfm2",
    "llama",
    "minicpm",
    "nemotron",
    "olmo",
    "olmo2",
    "olmoe",
    "openelm",
    "phi2",
    "phi3",
    "qwen2",
    "qwen2moe",
    "qwen3",
    "qwen3moe",
    "seed_oss",
    "smollm3",
    "stablelm",
    "starcoder2",
}
MIXTURES = {"granitemoe", "olmoe", "qwen2moe", "qwen3moe"}  # fmt: skip
PARTLY_ROTATED = {
    "gemma", "gemma2", "gemma3", "gpt2", "gptneox", "lfm2", "nemotron", "openelm", "phi2", "phi3", "stablelm",
}  # fmt: skip
TOKENIZERS = frozenset({"gpt2", "llama"})
ROPE_SCALINGS = frozenset({"none", "linear", "yarn", "longrope"})
FILE_TYPES = {
    0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 7: "q8_0", 8: "q5_0", 9: "q5_1", 10: "q2_k", 11: "q3_k_s",
    12: "q3_k_m", 13: "q3_k_l", 14: "q4_k_s", 15: "q4_k_m", 16: "q5_k_s", 17: "q5_k_m", 18: "q6_k",
    19: "iq2_xxs", 20: "iq2_xs", 21: "q2_k_s", 22: "iq3_xs", 23: "iq3_xxs", 24: "iq1_s", 25: "iq4_nl",
    26: "iq3_s", 27: "iq3_m", 28: "iq2_s", 29: "iq2_m", 30: "iq4_xs", 31: "iq1_m", 32: "bf16",
    36: "tq1_0", 37: "tq2_0", 38: "mxfp4",
}  # fmt: skip
_LAYER = re.compile(r"blk\.(?P<number>0|[1-9][0-9]{0,3})\.(?P<part>.+)")
PER_LAYER = ("attention.head_count", "attention.head_count_kv", "feed_forward_length")
U32, I32, F32, BOOL = 4, 5, 6, 7
MAX_LAYERS = 512
MAX_EXPERTS = 512
MAX_WIDTH = 1 << 17  # of embeddings, heads and feed-forward layers, in values
MAX_CONTEXT = 1 << 27


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The hyper-parameters of a transformer that passed the checks."""

    architecture: str
    context_length: int
    n_embd: int
    n_layer: int
    n_head: int
    n_head_kv: int
    head_dim_k: int
    head_dim_v: int
    n_vocab: int


def check(file: str, values: Mapping[str, Value], tensors: tuple[TensorInfo, ...]) -> Shape:
    """The model's shape, or ModelCorrupt or ModelUnsupported naming the entry that is wrong."""
    checks = _Checks(file, values)
    checks.supported()
    n_vocab = checks.tokenizer()
    shape = checks.hyper_parameters(n_vocab)
    checks.numbers()
    checks.experts()
    checks.tensors(shape, tensors)
    return shape


def quantization_label(values: Mapping[str, Value], types: Counter[str]) -> str:
    """The file's own label (``q4_k_m``), or else its most frequent tensor type."""
    entry = values.get("general.file_type")
    if entry and isinstance(entry.value, int) and entry.value in FILE_TYPES:
        return FILE_TYPES[entry.value]
    return types.most_common(1)[0][0].lower() if types else "f32"


class _Checks:
    def __init__(self, file: str, values: Mapping[str, Value]) -> None:
        self._file = file
        self._values = values
        self._arch = ""

    def supported(self) -> None:
        """Architecture and splitting."""
        self._arch = self._text("general.architecture") or self._wrong("general.architecture is missing")
        if self._arch not in ARCHITECTURES:
            raise ModelUnsupported(
                f"{self._file} has the architecture {self._arch[:40]!r}",
                why=f"Supported are {', '.join(sorted(ARCHITECTURES))}",
            )
        self._int("general.file_type", 0, most=1 << 16)
        if self._int("split.count", 0, most=1 << 16, kinds=(2, 4)) > 1:
            raise ModelUnsupported(
                f"{self._file} is one part of a split model", remedy="Merge its parts first"
            )

    def tokenizer(self) -> int:
        """Arrays of equal length and the right types; the number of tokens."""
        model = self._text("tokenizer.ggml.model")
        if model not in TOKENIZERS:
            raise ModelUnsupported(f"{self._file} has the tokenizer {str(model)[:40]!r}")
        tokens = self._strings("tokenizer.ggml.tokens")
        if not tokens or _distinct(tokens) != len(tokens):
            self._wrong("tokenizer.ggml.tokens is empty or has a token twice")
        if model == "gpt2":
            self._typed_array("tokenizer.ggml.merges", (STRING,))
        elif not _spells_all_bytes(set(tokens)):
            self._wrong("tokenizer.ggml.tokens does not have all 256 bytes")
        self._parallel("tokenizer.ggml.scores", len(tokens), (F32, I32))
        types = self._parallel("tokenizer.ggml.token_type", len(tokens), (I32,))
        if types and not {1, 2, 3, 4, 5, 6} >= set(types):
            self._wrong("tokenizer.ggml.token_type has a type other than 1 to 6")
        for key, entry in self._values.items():
            if key in ("tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"):
                self._int(key, 0, most=len(tokens) - 1)
            elif key.startswith("tokenizer.ggml.") and key.startswith("add_", 15) and entry.kind != BOOL:
                self._wrong(f"{key} is not a truth value")
        return len(tokens)

    def hyper_parameters(self, n_vocab: int) -> Shape:
        """Width, depth and heads that fit one another."""
        n_layer = self._arch_int("block_count", least=1, most=MAX_LAYERS)
        n_embd = self._arch_int("embedding_length", least=1, most=MAX_WIDTH)
        heads = self._per_layer("attention.head_count", n_layer)
        heads_kv = self._per_layer("attention.head_count_kv", n_layer, heads)
        self._per_layer("feed_forward_length", n_layer, (1,) * n_layer)
        if not heads[0]:
            self._wrong("attention.head_count is zero")
        for n_head, n_kv in zip(heads, heads_kv, strict=True):
            if n_kv > n_head or (n_kv and n_head % n_kv):
                self._wrong(f"{n_head} attention heads cannot share {n_kv} key-value heads")
        key_length = self._key("attention.key_length")
        if n_embd % heads[0] and key_length not in self._values:
            self._wrong(f"{n_embd} values cannot be split over {heads[0]} attention heads")
        head_dim = n_embd // heads[0]
        if not head_dim and key_length not in self._values:
            self._wrong("there are more attention heads than values")
        head_dim_k = self._arch_int("attention.key_length", head_dim, least=1, most=MAX_WIDTH)
        head_dim_v = self._arch_int("attention.value_length", head_dim, least=1, most=MAX_WIDTH)
        n_rot = self._arch_int("rope.dimension_count", head_dim_k, least=1, most=head_dim_k)
        rotates_all = self._arch not in PARTLY_ROTATED
        if head_dim_k != head_dim_v or n_rot % 2 or (rotates_all and n_rot != head_dim_k):
            self._wrong(f"heads of {head_dim_k} and {head_dim_v} values, {n_rot} of them rotated, do not fit")
        return Shape(
            architecture=self._arch,
            context_length=self._arch_int("context_length", least=1, most=MAX_CONTEXT),
            n_embd=n_embd,
            n_layer=n_layer,
            n_head=max(heads),
            n_head_kv=max(heads_kv),
            head_dim_k=head_dim_k,
            head_dim_v=head_dim_v,
            n_vocab=n_vocab,
        )

    def numbers(self) -> None:
        """Every float of the architecture is finite and not negative; rope is something llama.cpp knows."""
        for key, entry in self._values.items():
            if not key.startswith(f"{self._arch}."):
                continue
            if entry.kind == F32 and not (isinstance(entry.value, float) and 0 <= entry.value < math.inf):
                self._wrong(f"{key} is {entry.value}")
        epsilons = ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon")
        if not any(self._key(name) in self._values for name in epsilons):
            self._wrong(f"{self._key(epsilons[0])} is missing")
        for name in (*epsilons, "rope.freq_base"):
            self._positive(name)
        scaling = self._text(self._key("rope.scaling.type")) or "linear"
        if scaling not in ROPE_SCALINGS:
            self._wrong(f"the rope scaling {scaling[:40]!r} is unknown")
        self._arch_int("pooling_type", 0, most=4)
        self._arch_int("shortconv.l_cache", 2, least=2, most=64)
        self._arch_int("attention.sliding_window", 0, most=MAX_CONTEXT)

    def experts(self) -> None:
        """The counts of experts that llama.cpp asserts."""
        n_expert = self._arch_int("expert_count", 0, most=MAX_EXPERTS)
        used = self._arch_int("expert_used_count", 0, most=n_expert)
        groups = self._arch_int("expert_group_count", 0, most=max(0, n_expert - 1))
        groups_used = self._arch_int("expert_group_used_count", 0, most=max(0, groups - 1))
        if (n_expert > 0) != (used > 0) or (groups > 1 and (n_expert % groups or not groups_used)):
            self._wrong(f"{used} of {n_expert} experts in {groups} groups cannot be used")
        if self._arch in MIXTURES and not n_expert:
            self._wrong("a mixture of experts has none")

    def tensors(self, shape: Shape, tensors: tuple[TensorInfo, ...]) -> None:
        """Each layer is there, no other is, and the tensors we know have the shape the numbers say."""
        if not any(tensor.name == "token_embd.weight" for tensor in tensors):
            self._wrong("the tensor token_embd.weight is missing")
        layers = set()
        expected = self._expected_shapes(shape)
        for tensor in tensors:
            if len(tensor.shape) == 1 and tensor.type != "F32":
                self._wrong(f"tensor {tensor.name} is one row of type {tensor.type}, not F32")
            layer = _LAYER.fullmatch(tensor.name)
            if layer:
                layers.add(int(layer["number"]))
            elif tensor.name.startswith("blk."):
                self._wrong(f"tensor {tensor.name!r} has no layer number")
            part = layer["part"] if layer else tensor.name
            if tensor.shape != expected.get(part, tensor.shape):
                self._wrong(f"tensor {tensor.name} has the shape {tensor.shape}, not {expected[part]}")
        if layers != set(range(shape.n_layer)):
            self._wrong(f"tensors of {len(layers)} layers are there, block_count says {shape.n_layer}")

    def _expected_shapes(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        """Shapes by the tensor's name without its layer; of the matrices only if all layers are alike."""
        expected = {
            "token_embd.weight": (shape.n_embd, shape.n_vocab),
            "output.weight": (shape.n_embd, shape.n_vocab),
            "output_norm.weight": (shape.n_embd,),
            "attn_norm.weight": (shape.n_embd,),
            "ffn_norm.weight": (shape.n_embd,),
        }
        entries = (self._values.get(self._key(name)) for name in PER_LAYER)
        if any(entry and isinstance(entry.value, Array) for entry in entries):
            return expected
        n_ff = self._arch_int("feed_forward_length", 0, most=MAX_WIDTH)
        return expected | {
            "attn_q.weight": (shape.n_embd, shape.n_head * shape.head_dim_k),
            "attn_k.weight": (shape.n_embd, shape.n_head_kv * shape.head_dim_k),
            "attn_v.weight": (shape.n_embd, shape.n_head_kv * shape.head_dim_v),
            "attn_output.weight": (shape.n_head * shape.head_dim_v, shape.n_embd),
            "ffn_gate.weight": (shape.n_embd, n_ff),
            "ffn_down.weight": (n_ff, shape.n_embd),
            **self._expert_shapes(shape, n_ff),
        }

    def _expert_shapes(self, shape: Shape, n_ff: int) -> dict[str, tuple[int, ...]]:
        """Those of the experts, which lie in one tensor each kind."""
        n_expert = self._arch_int("expert_count", 0, most=MAX_EXPERTS)
        if not n_expert:
            return {}
        used = self._arch_int("expert_used_count", least=1, most=n_expert)
        width = n_ff
        if self._arch.startswith("qwen"):
            width = self._arch_int("expert_feed_forward_length", 0, most=MAX_WIDTH) or n_ff // used
        return {
            "ffn_gate_inp.weight": (shape.n_embd, n_expert),
            "ffn_gate_exps.weight": (shape.n_embd, width, n_expert),
            "ffn_up_exps.weight": (shape.n_embd, width, n_expert),
            "ffn_down_exps.weight": (width, shape.n_embd, n_expert),
        }

    def _wrong(self, what: str) -> NoReturn:
        raise ModelCorrupt(
            f"The header of {self._file} contradicts itself", why=what, remedy="Fetch or copy it again"
        )

    def _key(self, name: str) -> str:
        return f"{self._arch}.{name}"

    def _text(self, key: str) -> str | None:
        entry = self._values.get(key)
        if entry is None:
            return None
        if not isinstance(entry.value, str):
            self._wrong(f"{key} is not a text")
        return entry.value

    def _arch_int(self, name: str, default: int | None = None, *, least: int = 0, most: int) -> int:
        return self._int(self._key(name), default, least=least, most=most)

    def _int(
        self, key: str, default: int | None, *, least: int = 0, most: int, kinds: tuple[int, ...] = (U32,)
    ) -> int:
        entry = self._values.get(key)
        if entry is None:
            return self._wrong(f"{key} is missing") if default is None else default
        if entry.kind not in kinds or not isinstance(entry.value, int):
            self._wrong(f"{key} has the wrong type")
        if not least <= entry.value <= most:
            self._wrong(f"{key} is {entry.value}, expected {least} to {most}")
        return entry.value

    def _positive(self, name: str) -> None:
        entry = self._values.get(self._key(name))
        if entry and not (entry.kind == F32 and isinstance(entry.value, float) and entry.value > 0):
            self._wrong(f"{self._key(name)} is {entry.value}, not a positive number")

    def _per_layer(self, name: str, n_layer: int, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """A number of each layer: one for all, or an array of them."""
        key = self._key(name)
        entry = self._values.get(key)
        if entry is None and default is not None:
            return default
        if entry is None or not isinstance(entry.value, Array):
            return (self._int(key, None, least=1, most=MAX_WIDTH),) * n_layer
        values = self._typed_array(key, (U32, I32)).values
        numbers = tuple(value for value in values or () if isinstance(value, int) and 0 <= value <= MAX_WIDTH)
        if len(numbers) != n_layer:
            self._wrong(f"{key} does not have a sound number for each of {n_layer} layers")
        return numbers

    def _typed_array(self, key: str, kinds: tuple[int, ...]) -> Array:
        entry = self._values.get(key)
        if entry is None or not isinstance(entry.value, Array) or entry.value.kind not in kinds:
            self._wrong(f"{key} is missing or has the wrong type")
        return entry.value

    def _strings(self, key: str) -> tuple[bytes, ...]:
        values = self._typed_array(key, (STRING,)).values or ()
        return tuple(value for value in values if isinstance(value, bytes))

    def _parallel(
        self, key: str, length: int, kinds: tuple[int, ...]
    ) -> tuple[int | float | bool | bytes, ...]:
        """An optional array that has one value a token."""
        if key not in self._values:
            return ()
        array = self._typed_array(key, kinds)
        if array.length != length:
            self._wrong(f"{key} has {array.length} values for {length} tokens")
        return array.values or ()


def _distinct(tokens: tuple[bytes, ...]) -> int:
    """How many tokens llama.cpp sees, which cuts them at a zero byte and gives empty ones a name."""
    seen = (token.partition(b"\0")[0] or b"[EMPTY_%d]" % index for index, token in enumerate(tokens))
    return len(set(seen))


def _spells_all_bytes(tokens: set[bytes]) -> bool:
    return all(b"<0x%02X>" % byte in tokens or bytes((byte,)) in tokens for byte in range(256))
