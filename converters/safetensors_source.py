"""Read a Hugging Face folder (`config.json`, `*.safetensors`, `tokenizer.json`) as a decoder."""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edgeai.converters.checkpoints import scheme_of, unpacked
from edgeai.converters.decoder import Floats, Matrix, TokenizerData
from edgeai.converters.hf_config import decoder_of
from edgeai.converters.licence import licence_of
from edgeai.converters.packed_words import PackedMatrix
from edgeai.converters.safetensors_file import StoredMatrix, open_folder, read_json
from edgeai.errors import ModelCorrupt, ModelNotFound, ModelUnsupported

_LAYER = "model.layers.{}."
NAMES = {
    "embed": "model.embed_tokens.weight",
    "head": "lm_head.weight",
    "final_norm": "model.norm.weight",
    "q": _LAYER + "self_attn.q_proj.weight",
    "k": _LAYER + "self_attn.k_proj.weight",
    "v": _LAYER + "self_attn.v_proj.weight",
    "o": _LAYER + "self_attn.o_proj.weight",
    "q_bias": _LAYER + "self_attn.q_proj.bias",
    "k_bias": _LAYER + "self_attn.k_proj.bias",
    "v_bias": _LAYER + "self_attn.v_proj.bias",
    "o_bias": _LAYER + "self_attn.o_proj.bias",
    "q_norm": _LAYER + "self_attn.q_norm.weight",
    "k_norm": _LAYER + "self_attn.k_norm.weight",
    "attn_norm": _LAYER + "input_layernorm.weight",
    "ffn_norm": _LAYER + "post_attention_layernorm.weight",
    "gate": _LAYER + "mlp.gate_proj.weight",
    "up": _LAYER + "mlp.up_proj.weight",
    "down": _LAYER + "mlp.down_proj.weight",
}
GEMMA_NAMES = {
    "post_attn_norm": _LAYER + "post_attention_layernorm.weight",
    "ffn_norm": _LAYER + "pre_feedforward_layernorm.weight",
    "post_ffn_norm": _LAYER + "post_feedforward_layernorm.weight",
}
PACKED = {
    **dict.fromkeys(("q", "k", "v"), _LAYER + "self_attn.qkv_proj.weight"),
    **dict.fromkeys(("gate", "up"), _LAYER + "mlp.gate_up_proj.weight"),
}


class SafetensorsSource:
    """An open model folder. Raises ModelNotFound, ModelCorrupt or ModelUnsupported.

    ``config`` and ``tensors`` are the folder's own, unless its weights are in another form.
    """

    def __init__(
        self,
        folder: Path,
        *,
        config: Mapping[str, Any] | None = None,
        tensors: Mapping[str, StoredMatrix | PackedMatrix] | None = None,
    ) -> None:
        self._folder, self._own = folder, tensors is None
        self._config = read_json(folder / "config.json") if config is None else config
        self.decoder = decoder_of(self._config, folder.name, licence_of(folder))
        self._gemma = self.decoder.architecture == "gemma3"
        self._names = NAMES | GEMMA_NAMES if self._gemma else NAMES
        self._scheme = scheme_of(self._config)
        self.tensors = unpacked(open_folder(folder), self._scheme) if tensors is None else tensors
        self._refuse_unknown()

    @cached_property
    def provenance(self) -> Mapping[str, str | int | Mapping[str, int]]:
        """The folder's name and the hash of its configuration and weights."""
        digest = hashlib.sha256()
        for path in self._files():
            with path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        said = {} if self._scheme is None else {"quantization": str(self._scheme)}
        form = "safetensors" if self._own else "onnx"
        return {"format": form, "folder": self._folder.name, "sha256": digest.hexdigest(), **said}

    def _files(self) -> list[Path]:
        """What the weights are in, configuration first."""
        if self._own:
            return [self._folder / "config.json", *sorted(self._folder.glob("*.safetensors"))]
        configs = [self._folder / name for name in ("config.json", "genai_config.json")]
        return [path for path in (*configs, *sorted(self._folder.glob("*.onnx*"))) if path.is_file()]

    @property
    def quantized(self) -> bool:
        """Whether weights are packed whole numbers."""
        return any(isinstance(tensor, PackedMatrix) for tensor in self.tensors.values())

    @property
    def n_parameters(self) -> int:
        """Weights in all, without a tied head."""
        tied = self.matrix("head") is None
        return sum(t.size for name, t in self.tensors.items() if not (tied and name == NAMES["head"]))

    def matrix(self, role: str, layer: int | None = None) -> Matrix | None:
        """The matrix of that role; tied heads have none."""
        if role == "head" and self._config.get("tie_word_embeddings", self._gemma):
            return None
        stored = self.tensors.get(self._names[role].format(layer))
        if stored is None and role in PACKED:
            stored = self.tensors.get(PACKED[role].format(layer))
            stored = None if stored is None else stored.part(self._part(role))
        if isinstance(stored, StoredMatrix) and stored.raw.ndim != 2:
            raise ModelCorrupt(f"{role} is not a matrix")
        return stored

    def vector(self, role: str, layer: int | None = None) -> Floats | None:
        """The vector of that role; Gemma's folders have its norms less one, graphs what they multiply by."""
        stored = self.tensors.get(self._names[role].format(layer)) if role in self._names else None
        if not isinstance(stored, StoredMatrix):
            return None
        values = stored.floats().reshape(-1)
        less_one = self._gemma and self._own and role.endswith("_norm")
        return values + np.float32(1) if less_one else values

    def tokenizer(self) -> TokenizerData:
        """The folder's own tokenizer, as it is."""
        path = self._folder / "tokenizer.json"
        if not path.is_file():
            raise ModelUnsupported(
                f"{self._folder.name} has no tokenizer.json", remedy="Save the tokenizer as a fast one first"
            )
        content, settings = read_json(path), self._optional("tokenizer_config.json")
        ids = {str(token.get("content")): token.get("id") for token in content.get("added_tokens", [])}
        tokens = {key: _text(settings[key]) for key in ("bos_token", "eos_token") if settings.get(key)}
        bos = self._config.get("bos_token_id", ids.get(tokens.get("bos_token", "")))
        return TokenizerData(
            json=path.read_text("utf-8"),
            chat_template=self._template(settings),
            bos_id=bos if isinstance(bos, int) else None,
            eos_ids=self._ends(ids.get(tokens.get("eos_token", ""))),
            add_bos=_adds_bos(content, bos),
            tokens=tokens,
        )

    def _refuse_unknown(self) -> None:
        """Refuse what the builder would silently leave out."""
        names = [*self._names.values(), *PACKED.values()]
        known = {name.format(i) for name in names for i in range(self.decoder.n_layers)}
        strange = sorted(
            name for name in set(self.tensors) - known if not name.endswith("rotary_emb.inv_freq")
        )
        if strange:
            raise ModelUnsupported(
                f"{self._folder.name} has tensors that the converter does not know",
                why=", ".join(strange[:5]),
            )

    def _part(self, role: str) -> slice:
        d = self.decoder
        n_q, n_kv = d.n_heads * d.head_dim, d.n_kv_heads * d.head_dim
        ends = {"q": (0, n_q), "k": (n_q, n_q + n_kv), "v": (n_q + n_kv, n_q + 2 * n_kv)}
        return slice(*(ends | {"gate": (0, d.n_ff), "up": (d.n_ff, 2 * d.n_ff)})[role])

    def _optional(self, name: str) -> dict[str, Any]:
        try:
            return read_json(self._folder / name)
        except ModelNotFound:
            return {}

    def _template(self, settings: Mapping[str, Any]) -> str | None:
        path = self._folder / "chat_template.jinja"
        if path.is_file():
            return path.read_text("utf-8")
        template = settings.get("chat_template")
        if isinstance(template, list):  # several, by name
            named = {entry.get("name"): entry.get("template") for entry in template}
            template = named.get("default")
        return template if isinstance(template, str) else None

    def _ends(self, named: int | None) -> tuple[int, ...]:
        found: list[int] = [] if named is None else [named]
        for config in (self._optional("generation_config.json"), self._config):
            value = config.get("eos_token_id")
            found += value if isinstance(value, list) else [] if value is None else [value]
        return tuple(dict.fromkeys(found))


def _text(token: str | Mapping[str, Any]) -> str:
    return token if isinstance(token, str) else str(token.get("content", ""))


def _adds_bos(content: Mapping[str, Any], bos: object) -> bool:
    """Whether the tokenizer itself puts BOS before a text."""
    processor = json.dumps(content.get("post_processor") or {})
    return f'"ids": [{bos}]' in processor and "TemplateProcessing" in processor
