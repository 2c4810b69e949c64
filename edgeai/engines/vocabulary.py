"""What the shared parts of the engines ask of a model's vocabulary."""

from typing import Protocol

__all__ = ["Vocabulary"]


class Vocabulary(Protocol):
    """Tokens and text, and the tokens with a meaning of their own. Safe from any thread."""

    @property
    def bos(self) -> int:
        """The token that begins a document, below 0 if there is none."""
        ...

    @property
    def eos(self) -> int:
        """The token that ends a document, below 0 if there is none."""
        ...

    @property
    def add_bos(self) -> bool:
        """Whether a prompt begins with ``bos``."""
        ...

    @property
    def eog(self) -> frozenset[int]:
        """All tokens that end an answer."""
        ...

    @property
    def control(self) -> frozenset[int]:
        """Tokens that are no text."""
        ...

    @property
    def chat_template(self) -> str | None:
        """The source of the model's own chat template."""
        ...

    def tokenize(self, text: str, *, special: bool = False, whole: bool = False) -> list[int]:
        """Token ids of ``text``; ``special`` reads control tokens, ``whole`` adds what starts a document.

        Raises ConfigError for text that has no UTF-8 form, EngineClosed when the model is closed.
        """
        ...

    def piece(self, token: int) -> bytes:
        """The bytes that ``token`` stands for, empty for control tokens."""
        ...

    def check_open(self) -> object:
        """Raises EngineClosed when the model is closed."""
        ...

    def name_of(self, token: int) -> str:
        """A special token as text, empty when there is none."""
        ...
