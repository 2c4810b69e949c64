"""Prompts with secrets whose place is known, in nine languages, plain and disguised."""

import base64
import random
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass

SENTENCES = {
    "en": "Please help me with this: {} belongs to the file we discussed.",
    "de": "Bitte prüfen Sie kurz die Angabe {} und antworten Sie bis Freitag.",
    "fr": "Pourriez-vous vérifier {} avant la réunion de demain matin ?",
    "es": "Por favor revise el dato {} y responda lo antes posible.",
    "it": "Controlli per favore il dato {} prima della riunione di domani.",
    "pl": "Proszę sprawdzić wpis {} i odpowiedzieć jeszcze dzisiaj.",
    "ru": "Пожалуйста, проверьте запись {} и ответьте до пятницы.",
    "tr": "Lütfen {} bilgisini kontrol edip yarına kadar yanıtlayın.",
    "zh": "请在今天下班之前核对这一项 {} 并尽快回复我们。",
}
PHONES = (
    *(
        "+1 415 555 {:04d}",
        "+49 30 90{:04d}",
        "+33 6 12 34 {:04d}",
        "+34 612 34 {:04d}",
        "+39 347 123 {:04d}",
    ),
    *(
        "+48 512 34 {:04d}",
        "+7 916 123 {:04d}",
        "+90 532 123 {:04d}",
        "+86 138 1234 {:04d}",
        "(415) 555-{:04d}",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """A prompt, the secret as it stands in it, and what it is."""

    prompt: str
    secret: str
    kind: str
    disguise: str
    language: str


def luhn_complete(digits: str) -> str:
    """The digits with their check digit (ISO/IEC 7812-1)."""
    doubled = [int(c) * (2 if at % 2 == 0 else 1) for at, c in enumerate(reversed(digits))]
    return f"{digits}{-sum(n - 9 if n > 9 else n for n in doubled) % 10}"


def iban(rng: random.Random, country: str, length: int) -> str:
    """An account with right check digits (ISO 13616); its bank does not exist."""
    account = _digits(rng, length - 4)
    number = int("".join(str(int(c, 36)) for c in f"{account}{country}00"))
    return f"{country}{98 - number % 97:02d}{account}"


def bsn(rng: random.Random) -> str:
    """A Dutch citizen's number, by its test of elevens."""
    while True:
        digits = _digits(rng, 9)
        if sum(int(c) * w for c, w in zip(digits, (9, 8, 7, 6, 5, 4, 3, 2, -1), strict=True)) % 11 == 0:
            return digits


MAKERS: dict[str, Callable[[random.Random], str]] = {
    "EMAIL": lambda r: f"{_word(r)}.{_word(r)}@{_word(r)}.{r.choice(['com', 'de', 'co.uk', 'org'])}",
    "PHONE": lambda r: r.choice(PHONES).format(r.randrange(10_000)),
    "CARD": lambda r: luhn_complete(r.choice(["4", "51", "55"]).ljust(2, "5") + _digits(r, 13)),
    "IBAN": lambda r: iban(r, *r.choice([("DE", 22), ("NO", 15), ("BE", 16), ("ES", 24)])),
    "ID": bsn,
    "IP": lambda r: ".".join(str(r.randrange(11, 250)) for _ in range(4)),
    "MAC": lambda r: ":".join(f"{r.randrange(16, 250):02x}" for _ in range(5)) + ":0a",
    "KEY": lambda r: (
        r.choice(["sk-proj-", "ghp_", "hf_", "glpat-"])
        + "".join(r.choices(string.ascii_letters + string.digits, k=32))
    ),
}
DISGUISES: dict[str, Callable[[str], str]] = {
    "plain": lambda s: s,
    "full-width": lambda s: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in s),
    "zero-width": "\u200b".join,
    "soft hyphens": "\u00ad".join,
    "spaced out": " ".join,
    "look-alikes": lambda s: s.translate(str.maketrans("aeopcxyABEKMHOPCTX", "аеорсхуАВЕКМНОРСТХ")),
    "base64": lambda s: base64.b64encode(s.encode()).decode(),
    "percent": lambda s: "".join(f"%{ord(c):02x}" for c in s),
    "entities": lambda s: "".join(f"&#{ord(c)};" for c in s),
    "Arabic digits": lambda s: "".join(chr(0x0660 + int(c)) if c.isdigit() else c for c in s),
}


def planted(seed: int, rounds: int) -> Iterator[Planted]:
    """``rounds`` prompts for each kind, language and disguise."""
    rng = random.Random(seed)
    for language, sentence in SENTENCES.items():
        for kind, make in MAKERS.items():
            for disguise, hide in DISGUISES.items():
                for _ in range(rounds):
                    secret = hide(make(rng))
                    prompt = sentence.format(secret)
                    yield Planted(
                        prompt=prompt, secret=secret, kind=kind, disguise=disguise, language=language
                    )


def _digits(rng: random.Random, n: int) -> str:
    return "".join(rng.choices(string.digits, k=n))


def _word(rng: random.Random) -> str:
    return "".join(rng.choices(string.ascii_lowercase, k=rng.randrange(3, 9)))
