"""A GGUF file's tokenizer as a `tokenizer.json` that gives the same ids as llama.cpp."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from edgeai.converters.decoder import TokenizerData
from edgeai.converters.pretokenizers import pre_tokenizer
from edgeai.errors import ModelCorrupt, ModelUnsupported


class Metadata(Protocol):
    """What a tokenizer asks of a file: values by key and type, None where there is none."""

    def text(self, key: str) -> str | None:
        """A string."""
        ...

    def integer(self, key: str) -> int | None:
        """A whole number."""
        ...

    def flag(self, key: str) -> bool | None:
        """A truth value."""
        ...

    def texts(self, key: str) -> list[str] | None:
        """A list of strings."""
        ...

    def numbers(self, key: str) -> list[float] | None:
        """A list of numbers."""
        ...


Json = dict[str, Any]

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_ENDS = (  # what llama.cpp takes for an end of generation, by its text
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
)
_SPACE = "▁"


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    tokens: list[str]
    kinds: Sequence[float]

    def special(self, i: int) -> bool:
        return self.kinds[i] in (_CONTROL, _UNKNOWN) or self.tokens[i] in _ENDS

    def ids(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.tokens)}


def tokenizer_of(data: Metadata) -> TokenizerData:
    """Write the tokenizer anew; raises ModelUnsupported for a kind or pre-tokenizer that is not known."""
    kind = data.text("tokenizer.ggml.model")
    writers = {"gpt2": _byte_level, "llama": _sentence_piece}
    if kind not in writers:
        raise ModelUnsupported(
            f"The tokenizer kind {kind!r} cannot be converted",
            why="The converter knows byte-level BPE (gpt2) and SentencePiece BPE (llama)",
            remedy="Run the GGUF file with the llamacpp engine",
        )
    vocabulary = _vocabulary(data)
    content, add_bos = writers[kind](data, vocabulary)
    defaults = (1, 2) if kind == "llama" else (None, None)
    bos, eos = (
        default if (found := data.integer(f"tokenizer.ggml.{name}_token_id")) is None else found
        for name, default in zip(("bos", "eos"), defaults, strict=True)
    )
    added = data.flag("tokenizer.ggml.add_bos_token")
    add_bos = (add_bos if added is None else added) and bos is not None
    add_eos = bool(data.flag("tokenizer.ggml.add_eos_token"))
    content["post_processor"] = _template(vocabulary, bos if add_bos else None, eos if add_eos else None)
    return TokenizerData(
        json=json.dumps(content, ensure_ascii=False),
        chat_template=data.text("tokenizer.chat_template"),
        bos_id=bos,
        eos_ids=_ends(data, vocabulary, eos),
        add_bos=add_bos,
        tokens={
            name: vocabulary.tokens[i]
            for name, i in (("bos_token", bos), ("eos_token", eos))
            if i is not None
        },
    )


def _vocabulary(data: Metadata) -> _Vocabulary:
    tokens = data.texts("tokenizer.ggml.tokens")
    if not tokens:
        raise ModelCorrupt("The file has no vocabulary")
    tokens = [token or f"[EMPTY_{i}]" for i, token in enumerate(tokens)]
    kinds = data.numbers("tokenizer.ggml.token_type") or [_NORMAL] * len(tokens)
    if len(kinds) < len(tokens) or len(set(tokens)) != len(tokens):
        raise ModelCorrupt("The vocabulary is inconsistent", why="Missing token types or repeated tokens")
    return _Vocabulary(tokens, kinds)


def _ends(data: Metadata, vocabulary: _Vocabulary, eos: int | None) -> tuple[int, ...]:
    """All tokens that end a generation, the one named by the file first."""
    named = [eos, *(data.integer(f"tokenizer.ggml.{name}_token_id") for name in ("eot", "eom"))]
    ids = vocabulary.ids()
    found = [i for i in [*named, *(ids.get(end) for end in _ENDS)] if i is not None]
    return tuple(dict.fromkeys(int(i) for i in found))


def _byte_level(data: Metadata, vocabulary: _Vocabulary) -> tuple[Json, bool]:
    rules = pre_tokenizer(data.text("tokenizer.ggml.pre"))
    merges = data.texts("tokenizer.ggml.merges")
    if merges is None:
        raise ModelCorrupt("The file has no merges for its tokenizer")
    ids = vocabulary.ids()
    pairs = [_pair(merge) for merge in merges]
    splits = [
        {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
        for expression in rules.expressions
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    content = _skeleton(vocabulary, rstrip=False)
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*splits, byte_level]}
    content["decoder"] = byte_level
    content["model"] = _bpe(
        ids, [pair for pair in pairs if _possible(pair, ids)], ignore_merges=rules.ignore_merges
    )
    return content, rules.add_bos


def _pair(merge: str) -> tuple[str, str]:
    cut = merge.find(" ", 1)
    return merge[:cut], merge[cut + 1 :]


def _possible(pair: tuple[str, str], ids: dict[str, int]) -> bool:
    return pair[0] in ids and pair[1] in ids and pair[0] + pair[1] in ids


def _sentence_piece(data: Metadata, vocabulary: _Vocabulary) -> tuple[Json, bool]:
    scores = data.numbers("tokenizer.ggml.scores")
    if scores is None or len(scores) < len(vocabulary.tokens):
        raise ModelCorrupt("The file has no scores for its tokenizer")
    prefix = data.flag("tokenizer.ggml.add_space_prefix") is not False
    phi3 = any(mark in (data.text("general.name") or "").lower() for mark in ("phi-3", "phi3"))
    content = _skeleton(vocabulary, rstrip=phi3)
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    steps = [{"type": "Prepend", "prepend": _SPACE}, replace] if prefix else [replace]
    content["normalizer"] = {"type": "Sequence", "normalizers": steps}
    decoders: list[Json] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    content["decoder"] = {"type": "Sequence", "decoders": decoders}
    ids = vocabulary.ids()
    unknown = vocabulary.tokens[data.integer("tokenizer.ggml.unknown_token_id") or 0]
    content["model"] = _bpe(ids, _merges(vocabulary.tokens, scores, ids), unknown=unknown)
    return content, True


def _merges(tokens: Sequence[str], scores: Sequence[float], ids: dict[str, int]) -> list[tuple[str, str]]:
    """SentencePiece joins the two neighbours whose union has the best score: the same as a list of merges."""
    merges = []
    for i in sorted(range(len(tokens)), key=lambda i: (-scores[i], i)):
        token = tokens[i]
        cuts = [(token[:n], token[n:]) for n in range(1, len(token))]
        known = [pair for pair in cuts if pair[0] in ids and pair[1] in ids]
        merges.extend(sorted(known, key=lambda pair: (ids[pair[0]], ids[pair[1]])))
    return merges


def _bpe(
    ids: dict[str, int],
    merges: Sequence[tuple[str, str]],
    *,
    unknown: str | None = None,
    ignore_merges: bool = False,
) -> Json:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": unknown is not None,
        "byte_fallback": unknown is not None,
        "ignore_merges": ignore_merges,
        "vocab": ids,
        "merges": [list(pair) for pair in merges],
    }


def _skeleton(vocabulary: _Vocabulary, *, rstrip: bool) -> Json:
    """Everything but the model; tokens of the user's and control tokens are found before all else."""
    added = [
        {
            "id": i,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": rstrip and _strips(token),
            "normalized": False,
            "special": vocabulary.special(i),
        }
        for i, token in enumerate(vocabulary.tokens)
        if vocabulary.special(i) or vocabulary.kinds[i] == _USER_DEFINED
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": None,
    }


def _strips(token: str) -> bool:
    """Phi 3's marks swallow the white space after them: llama.cpp's rule for that family."""
    return token not in ("<unk>", "<s>", "<|endoftext|>")


def _template(vocabulary: _Vocabulary, bos: int | None, eos: int | None) -> Json | None:
    """BOS and EOS around the text, for readers that ask for special tokens."""
    if bos is None and eos is None:
        return None
    text = [{"Sequence": {"id": "A", "type_id": 0}}]
    before, after = (
        [] if i is None else [{"SpecialToken": {"id": vocabulary.tokens[i], "type_id": 0}}]
        for i in (bos, eos)
    )
    names = {vocabulary.tokens[i]: i for i in (bos, eos) if i is not None}
    return {
        "type": "TemplateProcessing",
        "single": [*before, *text, *after],
        "pair": [*before, *text, *after, *before, {"Sequence": {"id": "B", "type_id": 1}}, *after],
        "special_tokens": {name: {"id": name, "ids": [i], "tokens": [name]} for name, i in names.items()},
    }
