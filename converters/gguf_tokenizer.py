"""A GGUF file's tokenizer as a `tokenizer.json` that gives the same ids as llama.cpp."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgeai.converters.decoder import TokenizerData
from edgeai.converters.pretokenizers import pre_tokenizer
from edgeai.errors import ModelCorrupt, ModelUnsupported

Field = Callable[..., Any]
"""``field(key, default=None)``: a value of the file's metadata."""

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
    kinds: Sequence[int]

    def special(self, i: int) -> bool:
        return self.kinds[i] in (_CONTROL, _UNKNOWN) or self.tokens[i] in _ENDS

    def ids(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.tokens)}


def tokenizer_of(field: Field) -> TokenizerData:
    """Write the tokenizer anew; raises ModelUnsupported for a kind or pre-tokenizer that is not known."""
    kind = field("tokenizer.ggml.model")
    writers = {"gpt2": _byte_level, "llama": _sentence_piece}
    if kind not in writers:
        raise ModelUnsupported(
            f"The tokenizer kind {kind!r} cannot be converted",
            why="The converter knows byte-level BPE (gpt2) and SentencePiece BPE (llama)",
            remedy="Run the GGUF file with the llamacpp engine",
        )
    vocabulary = _vocabulary(field)
    content, add_bos = writers[kind](field, vocabulary)
    bos = field("tokenizer.ggml.bos_token_id", 1 if kind == "llama" else None)
    add_bos = bool(field("tokenizer.ggml.add_bos_token", add_bos)) and bos is not None
    eos = field("tokenizer.ggml.eos_token_id", 2 if kind == "llama" else None)
    add_eos = bool(field("tokenizer.ggml.add_eos_token", False)) and eos is not None
    content["post_processor"] = _template(vocabulary, bos if add_bos else None, eos if add_eos else None)
    return TokenizerData(
        json=json.dumps(content, ensure_ascii=False),
        chat_template=field("tokenizer.chat_template"),
        bos_id=bos,
        eos_ids=_ends(field, vocabulary, eos),
        add_bos=add_bos,
        tokens={name: vocabulary.tokens[i] for name, i in (("bos_token", bos), ("eos_token", eos)) if i is not None},
    )


def _vocabulary(field: Field) -> _Vocabulary:
    tokens = field("tokenizer.ggml.tokens")
    if not tokens:
        raise ModelCorrupt("The file has no vocabulary")
    tokens = [token or f"[EMPTY_{i}]" for i, token in enumerate(tokens)]
    kinds = field("tokenizer.ggml.token_type") or [_NORMAL] * len(tokens)
    if len(kinds) < len(tokens) or len(set(tokens)) != len(tokens):
        raise ModelCorrupt("The vocabulary is inconsistent", why="Missing token types or repeated tokens")
    return _Vocabulary(tokens, kinds)


def _ends(field: Field, vocabulary: _Vocabulary, eos: int | None) -> tuple[int, ...]:
    """All tokens that end a generation, the one named by the file first."""
    named = [eos, *(field(f"tokenizer.ggml.{name}_token_id") for name in ("eot", "eom"))]
    ids = vocabulary.ids()
    found = [i for i in [*named, *(ids.get(end) for end in _ENDS)] if i is not None]
    return tuple(dict.fromkeys(int(i) for i in found))


def _byte_level(field: Field, vocabulary: _Vocabulary) -> tuple[Json, bool]:
    rules = pre_tokenizer(field("tokenizer.ggml.pre"))
    merges = field("tokenizer.ggml.merges")
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


def _sentence_piece(field: Field, vocabulary: _Vocabulary) -> tuple[Json, bool]:
    scores = field("tokenizer.ggml.scores")
    if scores is None or len(scores) < len(vocabulary.tokens):
        raise ModelCorrupt("The file has no scores for its tokenizer")
    prefix = bool(field("tokenizer.ggml.add_space_prefix", True))
    phi3 = any(mark in str(field("general.name", "")).lower() for mark in ("phi-3", "phi3"))
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
    unknown = vocabulary.tokens[int(field("tokenizer.ggml.unknown_token_id", 0))]
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
        [] if i is None else [{"SpecialToken": {"id": vocabulary.tokens[i], "type_id": 0}}] for i in (bos, eos)
    )
    names = {vocabulary.tokens[i]: i for i in (bos, eos) if i is not None}
    return {
        "type": "TemplateProcessing",
        "single": [*before, *text, *after],
        "pair": [*before, *text, *after, *before, {"Sequence": {"id": "B", "type_id": 1}}, *after],
        "special_tokens": {name: {"id": name, "ids": [i], "tokens": [name]} for name, i in names.items()},
    }
