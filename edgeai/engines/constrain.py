"""Answers held to a JSON schema, a grammar or a tool's form, by llguidance's masks. Shared by all engines."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from edgeai.engines.tools import tool_grammar
from edgeai.errors import ConfigError, EngineError, MissingExtra
from edgeai.types import Request

try:
    import llguidance
except ImportError as error:
    raise MissingExtra("llguidance is not installed", extra="onnx", why=str(error)) from error

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Constraint", "tokenizer_from_json", "tokenizer_from_llamacpp"]

_PLAIN_JSON: Final = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""One way to write whitespace: small models otherwise lose themselves in it."""


def tokenizer_from_llamacpp(
    vocabulary: list[bytes], vocab_address: int, tokenize_address: int, end_tokens: Sequence[int]
) -> object:
    """llguidance's view of a llama.cpp vocabulary; takes about half a second, so keep it."""
    tokenizer: object = llguidance.LLTokenizer.from_llamacpp(
        tokens=vocabulary,
        vocab_ptr=vocab_address,
        tokenize_fptr=tokenize_address,
        eos_token=list(end_tokens),
        slices=None,
    )
    return tokenizer


def tokenizer_from_json(text: str, n_vocab: int, end_tokens: Sequence[int]) -> object:
    """llguidance's view of a ``tokenizer.json``; takes about half a second, so keep it."""
    tokenizer: object = llguidance.LLTokenizer(text, n_vocab=n_vocab, eos_token=list(end_tokens))
    return tokenizer


class Constraint:
    """What one query's answer must look like. Raises ConfigError when the schema or grammar is not valid."""

    def __init__(self, tokenizer: object, request: Request, n_vocab: int) -> None:
        self._matcher = llguidance.LLMatcher(tokenizer, _grammar(request), log_level=0)
        if self._matcher.is_error():
            raise ConfigError(
                f"The {_kind(request)} cannot be used",
                why=self._matcher.get_error(),
                remedy="Simplify it; llguidance's documentation lists what is supported",
            )
        self._n_vocab = n_vocab
        self._bits = np.zeros((n_vocab + 31) // 32, np.uint32)

    def allowed(self) -> "NDArray[np.bool_]":
        """Which tokens may come next. Raises EngineError when the grammar has become too complex."""
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        self._check()
        bits = np.unpackbits(self._bits.view(np.uint8), count=self._n_vocab, bitorder="little")
        return bits.view(np.bool_)

    def accept(self, token: int) -> bool:
        """Take the chosen token; true when the answer is complete."""
        self._matcher.consume_token(token)
        self._check()
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise EngineError("The answer's constraint cannot go on", why=self._matcher.get_error())


def _kind(request: Request) -> str:
    return "schema" if request.schema is not None else "grammar" if request.grammar is not None else "tools"


def _grammar(request: Request) -> str:
    if request.grammar is not None:
        return str(llguidance.LLMatcher.grammar_from_lark(request.grammar))
    if request.schema is None:
        return str(llguidance.LLMatcher.grammar_from_lark(tool_grammar(request.tools)))
    try:
        text = json.dumps(request.schema, default=dict)
        return str(llguidance.LLMatcher.grammar_from_json_schema(text, defaults=_PLAIN_JSON))
    except (TypeError, ValueError) as error:
        raise ConfigError("The schema is not a JSON schema", why=str(error)) from error
