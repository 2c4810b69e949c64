"""How far one model's next-token distributions are from another's, row by row, nothing kept but numbers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edgeai.converters.decoder import Floats
from edgeai.converters.running import Running
from edgeai.errors import GateFailed

__all__ = ["Divergence", "compare", "windows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """``tokens`` were compared. KL divergences from the source are in nats a token.

    ``agreement`` is the share of tokens with the same favourite. The perplexities are of the text's own
    next tokens.
    """

    tokens: int
    kl_mean: float
    kl_p99: float
    kl_max: float
    agreement: float
    source_perplexity: float
    perplexity: float


def windows(ids: Sequence[int], starts: Sequence[int], *, length: int, count: int) -> list[list[int]]:
    """``count`` windows of ``length`` ids, spread over the text; each begins with ``starts``."""
    inner = length - len(starts)
    count = max(1, min(count, len(ids) // max(inner, 1)))
    places = np.linspace(0, max(len(ids) - inner, 0), count).astype(int)
    return [[*starts, *ids[place : place + inner]] for place in places]


def compare(
    source: Running,
    target: Running,
    texts: Sequence[Sequence[int]],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Divergence:
    """Both models' logits on the same ids. Raises GateFailed when they have different vocabularies."""
    n = min(source.n_vocab, target.n_vocab)
    if abs(source.n_vocab - target.n_vocab) > 1024:  # some formats pad the vocabulary, a little
        raise GateFailed(
            "The converted model is not the same model any more",
            why=f"It has {target.n_vocab} tokens, the source {source.n_vocab}",
        )
    found: list[Floats] = []
    total = sum(map(len, texts))
    for ids in texts:
        pairs = zip(source.rows(ids), target.rows(ids), strict=True)
        for rows in _rows(pairs, ids, n):
            found.append(rows)
            progress(sum(len(part) for part in found), total)
    return _summary(np.concatenate(found))


def _rows(pairs: Iterator[tuple[Floats, Floats]], ids: Sequence[int], n: int) -> Iterator[Floats]:
    """Per token: divergence, agreement, and the surprise of both at the next token (none at the end)."""
    place = 0
    for theirs, ours in pairs:
        before, after = _log_softmax(theirs[:, :n]), _log_softmax(ours[:, :n])
        divergence = (np.exp(before) * (before - after)).sum(axis=-1, dtype=np.float64)
        same = before.argmax(axis=-1) == after.argmax(axis=-1)
        nexts = np.array([*ids[place + 1 : place + 1 + len(before)]], np.intp)
        surprise = np.full((2, len(before)), np.nan)
        where = np.arange(len(nexts))
        surprise[0, : len(nexts)], surprise[1, : len(nexts)] = -before[where, nexts], -after[where, nexts]
        place += len(before)
        yield np.stack([np.maximum(divergence, 0.0), same, *surprise], axis=1).astype(np.float32)


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _summary(rows: Floats) -> Divergence:
    kl = rows[:, 0].astype(np.float64)
    # what is not a number is as far away as can be: the gates must not pass it
    kl = np.where(np.isfinite(kl), kl, np.inf)
    surprise = np.nanmean(rows[:, 2:].astype(np.float64), axis=0)
    return Divergence(
        tokens=len(rows),
        kl_mean=float(kl.mean()),
        kl_p99=float(np.quantile(kl, 0.99, method="higher")),
        kl_max=float(kl.max()),
        agreement=float(rows[:, 1].mean()),
        source_perplexity=float(np.exp(surprise[0])),
        perplexity=float(np.exp(min(surprise[1], 700.0))),
    )
