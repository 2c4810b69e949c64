"""How alike the logits of two devices are: of short texts, read as a prompt and token by token."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from edgeai.errors import EngineError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["TEXTS", "compare", "rows_of"]

TEXTS: Final = ("The capital of France is Paris, and", "def add(a, b):\n    return a + b\n\nprint(")
_SINGLE: Final = 2  # tokens of each text that come alone, as in decoding: GPUs have other code for these


class _Context(Protocol):
    """What of either engine's context is used."""

    def add(self, tokens: Sequence[int], start: int, seq: int, *, outputs: int = 0) -> int: ...
    def decode(self) -> int: ...
    def failure(self, code: int) -> EngineError: ...
    def logits(self, row: int) -> "NDArray[np.float32]": ...
    def forget(self, seq: int, start: int = 0) -> bool: ...


def rows_of(context: _Context, ids: Sequence[int]) -> "list[NDArray[np.float64]]":
    """The logits after each token: of a prompt at once, then token by token. Raises EngineError."""
    context.forget(0)
    found: list[NDArray[np.float64]] = []
    first = len(ids) - _SINGLE
    for start, chunk in ((0, ids[:first]), *((i, ids[i : i + 1]) for i in range(first, len(ids)))):
        last = context.add(chunk, start, 0, outputs=len(chunk))
        if code := context.decode():
            raise context.failure(code)
        rows = range(last + 1 - len(chunk), last + 1)
        found += [context.logits(row).astype(np.float64) for row in rows]
    return found


def compare(got: "NDArray[np.float64]", wanted: "NDArray[np.float64]") -> tuple[float, float, float]:
    """The smallest cosine of two rows of logits, the mean KL in nats, the largest difference.

    What is no number is quite unlike: 0, and infinitely far.
    """
    if got.shape != wanted.shape or not np.isfinite(got).all():
        return 0.0, float("inf"), float("inf")
    norms = np.linalg.norm(got, axis=1) * np.linalg.norm(wanted, axis=1)
    cosine = float((np.einsum("ij,ij->i", got, wanted) / np.maximum(norms, 1e-30)).min())
    p, q = _log_softmax(wanted), _log_softmax(got)
    kl = float((np.exp(p) * (p - q)).sum(axis=1).mean())
    return cosine, kl, float(np.abs(got - wanted).max())


def _log_softmax(logits: "NDArray[np.float64]") -> "NDArray[np.float64]":
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
