"""Of a long document, the passages that have to do with the question; found on the device.

By words, not by meaning: BM25 (Robertson and Zaragoza, "The Probabilistic Relevance Framework", 2009) with
its usual constants; in scripts without spaces by pairs of characters.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

LEFT_OUT = "[…]"
_K1, _B = 1.5, 0.75
_LONGEST_PASSAGE = 800
_PARAGRAPH = re.compile(r"\n\s*\n|\n")
_SENTENCE = re.compile(r"(?<=[.!?。！？])\s*")
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]+|[^\W_]+")


def shorten(text: str, question: str, limit: int) -> str:
    """The text if it has at most ``limit`` characters, else its most relevant passages, in their order.

    Its first and last passage, where instructions and questions stand, always stay, so that the result may
    be longer than ``limit`` by these. What was left out shows as "[…]".
    """
    if len(text) <= limit:
        return text
    cut = passages(text)
    scores = bm25(cut, f"{question}\n{cut[0]}\n{cut[-1]}")
    kept = {0, len(cut) - 1}
    room = limit - sum(len(cut[at]) for at in kept)
    for at in sorted(range(len(cut)), key=lambda at: (-scores[at], at)):
        if at not in kept and scores[at] > 0 and len(cut[at]) <= room:
            kept.add(at)
            room -= len(cut[at])
    return _joined(cut, kept)


def passages(text: str) -> list[str]:
    """The paragraphs of a text, long ones cut at sentences."""
    found = []
    for paragraph in _PARAGRAPH.split(text):
        if len(paragraph) <= _LONGEST_PASSAGE:
            found.append(paragraph)
        else:
            found += _SENTENCE.split(paragraph)
    return [passage.strip() for passage in found if passage.strip()] or [text]


def bm25(documents: Sequence[str], query: str) -> list[float]:
    """How well each document fits the query; 0 when they share no word."""
    counts = [Counter(_terms(document)) for document in documents]
    average = sum(map(Counter.total, counts)) / len(counts) or 1.0
    n_with = Counter(term for count in counts for term in count)
    wanted = set(_terms(query))
    return [
        sum(_weight(term, count, average, n_with, len(counts)) for term in wanted & count.keys())
        for count in counts
    ]


def _weight(term: str, count: Counter[str], average: float, n_with: Counter[str], n: int) -> float:
    rarity = math.log(1 + (n - n_with[term] + 0.5) / (n_with[term] + 0.5))
    length = _K1 * (1 - _B + _B * count.total() / average)
    return rarity * count[term] * (_K1 + 1) / (count[term] + length)


def _terms(text: str) -> list[str]:
    terms: list[str] = []
    for word in _WORD.findall(text.casefold()):
        pairs = "\u3040" <= word[0] <= "\u9fff" and len(word) > 1
        terms += (word[at : at + 2] for at in range(len(word) - 1)) if pairs else (word,)
    return terms


def _joined(cut: Sequence[str], kept: set[int]) -> str:
    lines: list[str] = []
    for at, passage in enumerate(cut):
        if at in kept:
            lines.append(passage)
        elif lines[-1] != LEFT_OUT:
            lines.append(LEFT_OUT)
    return "\n\n".join(lines)
