"""What a tokenizer and a template are tried on: lines that trip them over, and ordinary conversations."""

from collections.abc import Mapping, Sequence

MULTILINGUAL: tuple[str, ...] = (
    "The quick brown fox doesn't jump; it'll walk, and WE'RE told that I'M late.",
    "In 1969, 12345 people paid £3.50 (or 4,99 €) for 1/2 kg at 07:30.",
    "  two spaces,   three\tand a tab \n\n new lines \r\n  and   trailing   ",
    "def f(x_1: int) -> str:\n    return f'{x_1!r:>8}' if x_1 != 0 else \"\\n\"\n\n\t# done...",
    "Größe, naïve café, Ærøskøbing, İstanbul, Việt Nam, Łódź, São Paulo",
    "Привет, мир! Ещё 25 рублей. Καλημέρα κόσμε. Բարեւ աշխարհ",
    "你好，世界。三百四十五 こんにちは、カタカナ。 안녕하세요 세계",
    "שלום עולם مرحبا بالعالم ١٢٣ नमस्ते दुनिया १२३ สวัสดีชาวโลก ๔๕ বাংলা",
    "👍🏽 👩\u200d👩\u200d👧 🇩🇪 ½ Ⅷ ² ③ ∑x² ≠ ∞ → “quoted” – dash… \u00a0\u2003|\u200b|",
    "http://example.org/a?b=1&c=%20#d C++ C# a.b@c.d $x ==> <!-- <b>text</b> --> [x](y) ~~~ ^^^",
    "AAAA aaaa Aa1Bb22Cc333Dd4444 ___ ---- ==== \\\\ //// 'S 'T don'T He'd they've ＡＢＣ １２３",
)
"""In composed form (NFC), as llama.cpp does not normalise."""

_SYSTEM = {"role": "system", "content": "You are terse.\nAnswer in one line."}
_FIRST = {"role": "user", "content": "What's the capital of Österreich?  "}
_REPLY = {"role": "assistant", "content": "Wien (Vienna)."}
_SECOND = {"role": "user", "content": "And 2 + 2? <b>Explain</b> 你好"}

CONVERSATIONS: tuple[Sequence[Mapping[str, str]], ...] = (
    (_FIRST,),
    (_SYSTEM, _FIRST),
    (_FIRST, _REPLY, _SECOND),
    (_SYSTEM, _FIRST, _REPLY, _SECOND),
)
"""A template may refuse some of them, as long as it always did."""
