"""A `tokenizer.json` as the metadata of a GGUF file, tried out before it is believed."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tokenizers

from edgeai.converters.decoder import TokenizerData
from edgeai.converters.gguf_tokenizer import tokenizer_of
from edgeai.converters.samples import MULTILINGUAL
from edgeai.errors import ModelCorrupt, ModelUnsupported

Value = str | bool | int | float | list[str] | list[int] | list[float]
"""A value of a GGUF header: whole numbers are uint32 alone and int32 in lists, others float32."""

_PREFIX = "tokenizer.ggml."
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_CANDIDATES = ("smollm", "gpt-2", "llama-bpe", "qwen2", "dbrx", "glm4", "default")
"""One name for each way to cut text into words; the first that gives the source's ids is taken."""
_LOWEST = -1e9  # a score for tokens that no merge makes


@dataclass(frozen=True, slots=True)
class _Table:
    """Values by key, as `edgeai.converters.gguf_tokenizer.Metadata`."""

    values: Mapping[str, Value]

    def text(self, key: str) -> str | None:
        found = self.values.get(key)
        return found if isinstance(found, str) else None

    def integer(self, key: str) -> int | None:
        found = self.values.get(key)
        return found if isinstance(found, int) and not isinstance(found, bool) else None

    def flag(self, key: str) -> bool | None:
        found = self.values.get(key)
        return found if isinstance(found, bool) else None

    def texts(self, key: str) -> list[str] | None:
        found = self.values.get(key)
        return [str(item) for item in found] if isinstance(found, list) else None

    def numbers(self, key: str) -> list[float] | None:
        found = self.values.get(key)
        return [float(item) for item in found] if isinstance(found, list) else None


def vocabulary_of(data: TokenizerData, n_vocab: int) -> dict[str, Value]:
    """The ``tokenizer.*`` entries for a GGUF file, whose tokenizer then gives the same ids.

    Byte-level BPE (as Llama 3, Qwen and SmolLM have it) and BPE with byte fallback (as Gemma, Mistral and
    Phi 3 have it). Raises ModelUnsupported for another kind, or when no known pre-tokenizer gives the same
    ids; ModelCorrupt when the tokenizer cannot be read.
    """
    source = load(data.json)
    content = json.loads(data.json)
    model = content.get("model", {})
    if model.get("type") != "BPE":
        raise ModelUnsupported(
            f"The tokenizer kind {model.get('type')!r} cannot be written to a GGUF file",
            why="The converter knows byte-level BPE, and BPE with byte fallback",
        )
    common = _tokens(content, n_vocab) | _ends(data)
    if model.get("byte_fallback"):
        return _tried(source, [common | _sentence_piece(content, common)])
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    values: dict[str, Value] = {**common, _PREFIX + "model": "gpt2", _PREFIX + "merges": merges}
    return _tried(source, [values | {_PREFIX + "pre": name} for name in _CANDIDATES])


def load(content: str) -> tokenizers.Tokenizer:
    """A `tokenizer.json`'s tokenizer. Raises ModelCorrupt."""
    try:
        return tokenizers.Tokenizer.from_str(content)
    except Exception as error:  # the library raises Exception itself
        raise ModelCorrupt("The model's tokenizer cannot be read", why=str(error)) from error


def ids_of(tokenizer: tokenizers.Tokenizer, text: str) -> list[int]:
    """The ids of ``text``, without what a document begins with; control tokens are read as text."""
    tokenizer.encode_special_tokens = True
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def _tried(source: tokenizers.Tokenizer, candidates: Sequence[dict[str, Value]]) -> dict[str, Value]:
    """The first candidate that gives the source's ids."""
    expected = [ids_of(source, line) for line in MULTILINGUAL]
    wrong = ""
    for values in candidates:
        made = load(tokenizer_of(_Table(values)).json)
        pairs = zip(MULTILINGUAL, expected, strict=True)
        wrong = next((line for line, ids in pairs if ids_of(made, line) != ids), "")
        if not wrong:
            return values
    raise ModelUnsupported(
        "The model's tokenizer cannot be written to a GGUF file",
        why=f"llama.cpp has no pre-tokenizer with the same ids, for example on {wrong[:40]!r}",
        remedy="Convert to ONNX instead",
    )


def _tokens(content: Mapping[str, Any], n_vocab: int) -> dict[str, Value]:
    """All tokens by id, and their kinds; ids without a token get a name nobody writes."""
    vocabulary: dict[str, int] = content["model"]["vocab"]
    names = {i: token for token, i in vocabulary.items()}
    kinds = {i: _BYTE for token, i in vocabulary.items() if _is_byte(content, token)}
    for token in content.get("added_tokens", []):
        names[token["id"]] = token["content"]
        kinds[token["id"]] = _CONTROL if token.get("special") else _USER_DEFINED
    unknown = content["model"].get("unk_token")
    if unknown in vocabulary:
        kinds[vocabulary[unknown]] = _UNKNOWN
    if max(names, default=-1) >= n_vocab:
        raise ModelCorrupt(
            "The tokenizer does not match the model",
            why=f"It has token {max(names)}, the model has {n_vocab} tokens",
        )
    return {
        _PREFIX + "tokens": [names.get(i, f"[PAD{i}]") for i in range(n_vocab)],
        _PREFIX + "token_type": [kinds.get(i, _NORMAL) if i in names else _UNUSED for i in range(n_vocab)],
    }


def _is_byte(content: Mapping[str, Any], token: str) -> bool:
    fallback = content["model"].get("byte_fallback")
    return bool(fallback) and len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _ends(data: TokenizerData) -> dict[str, Value]:
    """What begins and ends a text, and the chat template."""
    values: dict[str, Value] = {_PREFIX + "add_bos_token": data.add_bos}
    if data.bos_id is not None:
        values[_PREFIX + "bos_token_id"] = data.bos_id
    for name, token in zip(("eos", "eot"), data.eos_ids, strict=False):
        values[f"{_PREFIX}{name}_token_id"] = token
    if data.chat_template is not None:
        values["tokenizer.chat_template"] = data.chat_template
    return values


def _sentence_piece(content: Mapping[str, Any], common: Mapping[str, Value]) -> dict[str, Value]:
    """SentencePiece's scores, in the order of the merges that make the tokens."""
    order: dict[str, int] = {}
    for left, right in _pairs(content["model"]["merges"]):
        order.setdefault(left + right, len(order))
    tokens = common[_PREFIX + "tokens"]
    assert isinstance(tokens, list)
    values: dict[str, Value] = {
        _PREFIX + "model": "llama",
        _PREFIX + "pre": "default",
        _PREFIX + "scores": [float(-order[str(t)]) if t in order else _LOWEST for t in tokens],
        _PREFIX + "add_space_prefix": _has_prefix(content),
    }
    unknown = content["model"]["vocab"].get(content["model"].get("unk_token"))
    return values if unknown is None else values | {_PREFIX + "unknown_token_id": int(unknown)}


def _pairs(merges: Sequence[str | Sequence[str]]) -> Iterator[tuple[str, str]]:
    for merge in merges:
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        yield left, right


def _has_prefix(content: Mapping[str, Any]) -> bool:
    """Whether a space is put before a text."""
    steps = [content.get("normalizer") or {}, content.get("pre_tokenizer") or {}]
    steps += [
        inner for step in steps for key in ("normalizers", "pretokenizers") for inner in step.get(key, [])
    ]
    return any(
        step.get("type") == "Prepend"
        or (step.get("type") == "Metaspace" and step.get("prepend_scheme", "always") != "never")
        for step in steps
    )
