"""Text as an encoder reads it: a Hugging Face ``tokenizer.json`` with what it puts around a text."""

import threading

from edgeai.engines.onnx.tokenizer import load_tokenizer
from edgeai.engines.text import utf8

__all__ = ["EncoderText"]


class EncoderText:
    """The tokenizer whose ``tokenizer.json`` is given; safe from any thread. Raises ModelCorrupt."""

    def __init__(self, text: str) -> None:
        self._lock = threading.Lock()
        self._tokenizer = load_tokenizer(text)

    @property
    def n_vocab(self) -> int:
        """How many tokens there are."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def ids(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids with the marks around them; with ``special`` control tokens in the text count as such."""
        utf8(text)
        with self._lock:
            self._tokenizer.encode_special_tokens = not special
            found: list[int] = self._tokenizer.encode(text).ids
        return found
