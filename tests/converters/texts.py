"""Lines of text that tokenizers trip over: many scripts, emoji, runs of white space, special tokens."""

import pydoc_data.topics
import random
from collections.abc import Sequence

_SCRIPTS = [
    *[
        (0x41, 0x5A),
        (0x61, 0x7A),
        (0x30, 0x39),
        (0xC0, 0x24F),
        (0x370, 0x3FF),
        (0x400, 0x4FF),
        (0x5D0, 0x5EA),
    ],
    *[(0x600, 0x6FF), (0x900, 0x97F), (0x980, 0x9FF), (0xE00, 0xE7F), (0x10A0, 0x10FF), (0x1100, 0x11FF)],
    *[(0x3040, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0x1F300, 0x1F6FF), (0x1F900, 0x1F9FF)],
    *[(0x2000, 0x206F), (0x2190, 0x21FF), (0x2460, 0x24FF), (0x2150, 0x218F), (0x660, 0x669), (0x300, 0x36F)],
    *[(0xFF00, 0xFFEF), (0x20A0, 0x20BF), (0x1D400, 0x1D7FF), (0x21, 0x2F)],
]
_SPACES = [
    " ",
    "  ",
    "   ",
    "\t",
    "\n",
    "\n\n",
    "\r\n",
    "\u00a0",
    "\u3000",
    " \n ",
    "\u2003",
    "\u200b",
    "\ufeff",
    "",
]
_WORDS = [
    "the",
    "of",
    "and's",
    "it'll",
    "I'M",
    "don't",
    "1234",
    "12",
    "5.67",
    "e=mc²",
    "naïve",
    "café",
    "你好世界",
    "こんにちは",
    "안녕하세요",
    "Привет",
    "мир",
    "שלום",
    "مرحبا",
    "नमस्ते",
    "สวัสดี",
    "👩\u200d👩\u200d👧\u200d👦",
    "🇩🇪",
    "👍🏽",
    "½",
    "Ⅷ",
    "٣٤",
    "...",
    "---",
    "==",
    "!=",
    "<=",
    "{}",
    "[]",
    "\\n",
    "//",
    "C++",
    "x_y",
    "a.b",
]


def lines(count: int, specials: Sequence[str], seed: int = 7) -> list[str]:
    """So many lines, half of them English prose, a fifth with special tokens in odd places."""
    source = random.Random(seed)
    prose = "\n".join(pydoc_data.topics.topics.values()).split("\n")[: count // 2]
    made = [*prose, *(_line(source) for _ in range(count - len(prose)))]
    return [_sprinkled(source, line, specials) if source.random() < 0.2 else line for line in made]


def _line(source: random.Random) -> str:
    kind = source.random()
    if kind < 0.4:
        return "".join(
            source.choice(_WORDS) + source.choice([*_SPACES, *" " * 12]) for _ in range(source.randint(1, 14))
        )
    if kind < 0.8:
        return "".join(_word(source) + source.choice(_SPACES) for _ in range(source.randint(1, 10)))
    return "".join(source.choice([*_SPACES, "a", "B", "1", "."]) for _ in range(source.randint(1, 30)))


def _word(source: random.Random) -> str:
    low, high = source.choice(_SCRIPTS)
    return "".join(chr(source.randint(low, high)) for _ in range(source.randint(1, 6)))


def _sprinkled(source: random.Random, line: str, specials: Sequence[str]) -> str:
    for _ in range(source.randint(1, 3) if specials else 0):
        at = source.randint(0, len(line))
        line = line[:at] + source.choice(specials) + line[at:]
    return line
