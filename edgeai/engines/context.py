"""What the scheduler asks of a native library: one batch at a time, over many sequences."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from edgeai.engines.slots import Cache
from edgeai.errors import EngineError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["ABORTED", "FULL", "MAX_OUTPUTS", "Context"]

FULL: Final = 1
"""What `Context.decode` returns when the cache has no cell left; nothing was decoded then."""

ABORTED: Final = 2
"""What `Context.decode` returns after `Context.abort`."""

MAX_OUTPUTS: Final = 64
"""Most tokens of one batch whose logits or hidden states are kept: each costs 4 bytes × vocabulary."""


class Context(Cache, Protocol):
    """One native context: a batch, the KV cache of its sequences, and the outputs of the last decode.

    It belongs to the scheduler's thread, except for `abort` and `proceed`. A batch holds ``n_batch`` tokens.
    """

    n_batch: int
    n_tokens: int

    def add(self, tokens: Sequence[int], start: int, seq: int, *, outputs: int = 0) -> int:
        """Append ``tokens`` of sequence ``seq`` from position ``start``; the last ``outputs`` give logits.

        Returns the row of the last one.
        """
        ...

    def decode(self) -> int:
        """Run the batch and empty it: 0 is success, `FULL`, `ABORTED`, or something else that has failed."""
        ...

    def failure(self, code: int) -> EngineError:
        """What that something was."""
        ...

    def logits(self, row: int) -> "NDArray[np.float32]":
        """The raw logits of ``row``, valid until the next decode."""
        ...

    def set_states(self, *, on: bool) -> None:
        """With it, `decode` gives the hidden states, too; every token of the batch may then be an output."""
        ...

    def state(self, row: int) -> "NDArray[np.float32] | None":
        """The last layer's state of ``row``, valid until the next decode; None if the model gives none."""
        ...

    def abort(self) -> None:
        """Stop the running decode, and later ones, until `proceed`. Safe from any thread."""
        ...

    def proceed(self) -> None:
        """Let decodes run again."""
        ...

    def free(self) -> None:
        """Give the memory back; the context is unusable afterwards."""
        ...
