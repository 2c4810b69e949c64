"""How llama.cpp cuts text into words before byte-pair merging, by the name a GGUF file gives.

Each name stands for expressions that are applied one after the other, each to the pieces the last one left.
"""

from dataclasses import dataclass

from edgeai.errors import ModelUnsupported

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_CONTRACTIONS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _TAIL
_QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _TAIL


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """The expressions, and what else the name implies: whole words before merges, a leading BOS."""

    expressions: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False


_DEFAULT = PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"))
_DIGITS = PreTokenizer((r"\p{N}", _GPT2))
_PLAIN = PreTokenizer((_GPT2,))
_WORDS3 = PreTokenizer((_LLAMA3,), ignore_merges=True, add_bos=True)
_QWEN = PreTokenizer((_QWEN2,))

_BY_NAME = {
    "default": _DEFAULT,
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), _DIGITS
    ),
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais", "mellum", "exaone4"), _PLAIN),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "lfm2"), _WORDS3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez", "stablelm2"), _QWEN),
    **dict.fromkeys(("dbrx", "smaug-bpe", "chatglm-bpe"), PreTokenizer((_LLAMA3,))),
    "glm4": PreTokenizer((_LLAMA3,), ignore_merges=True),
}


def pre_tokenizer(name: str | None) -> PreTokenizer:
    """The rules for a name, as in ``tokenizer.ggml.pre``; raises ModelUnsupported for an unknown one."""
    found = _BY_NAME.get(name or "default")
    if found is None:
        raise ModelUnsupported(
            f"The pre-tokenizer {name!r} is unknown to the converter",
            why=f"Known are {', '.join(sorted(_BY_NAME))}",
            remedy="Run the GGUF file with the llamacpp engine",
        )
    return found
