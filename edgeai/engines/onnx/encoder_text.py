"""Text as an encoder reads it: a Hugging Face ``tokenizer.json`` with what it puts around a text."""

import threading

from edgeai.engines.text import utf8
from edgeai.errors import MissingExtra, ModelCorrupt

try:
    import tokenizers
except ImportError as error:
    raise MissingExtra("tokenizers is not installed", extra="onnx", why=str(error)) from error

__all__ = ["EncoderText"]


class EncoderText:
    """The tokenizer whose ``tokenizer.json`` is given; safe from any thread. Raises ModelCorrupt."""

    def __init__(self, text: str) -> None:
        self._lock = threading.Lock()
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises nothing more precise
            raise ModelCorrupt(
                "The model's tokenizer cannot be read", why=str(error)[:400], remedy="Get the model again"
            ) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

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
