"""The secrets that redaction finds, plain and disguised."""

import base64
import time
from collections.abc import Callable, Iterable
from functools import partial

import pytest

from edgeai.egress import Redaction, recognise
from edgeai.egress.normalise import views
from edgeai.egress.phones import phones
from edgeai.egress.recognise import find
from edgeai.egress.redaction import REGIONS
from edgeai.errors import ConfigError

PLAIN = Redaction()
SECRETS = {
    "EMAIL": ["ana.kovac@example.com", "josé@correo.es", "x+y@mail.example.co.uk"],
    "PHONE": ["+49 30 901820", "(415) 555-2671", "+33 6 12 34 56 78", "020 7946 0958"],
    "CARD": ["4111 1111 1111 1111", "5555555555554444", "3782-822463-10005"],
    "IBAN": ["DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432", "FR14 2004 1010 0505 0001 3M02 606"],
    "ID": ["12345678Z", "123-45-6789", "529.982.247-25", "RSSMRA85T10A562S", "131052-308T"],
    "IP": ["10.20.30.40", "2001:db8::ff00:42:8329"],
    "MAC": ["00:1B:44:11:3A:B7"],
    "KEY": [
        "sk-proj-abcdefghijklmnop1234",
        "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "AKIAIOSFODNN7EXAMPLE",
    ],
}


def seen(text: str, redaction: Redaction = PLAIN) -> list[tuple[str, str]]:
    return [(text[start:end], kind) for start, end, kind in find(text, redaction)]


def circled(text: str) -> str:
    """Full-width forms of all that has one."""
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


@pytest.mark.parametrize(("kind", "secret"), [(k, s) for k, secrets in SECRETS.items() for s in secrets])
def test_plain(kind: str, secret: str) -> None:
    """Each is found whole, in the middle of a sentence and alone; some numbers may be of two kinds."""
    for text in (f"Please note {secret} for later.", secret, f"({secret})"):
        (found, named), *others = seen(text)
        assert not others
        assert secret in found
        assert len(found) <= len(secret) + 1
        assert named == kind or {named, kind} <= {"PHONE", "ID", "CARD"}, text


@pytest.mark.parametrize("secret", ["ana.kovac@example.com", "4111111111111111", "DE89370400440532013000"])
@pytest.mark.parametrize(
    "disguise",
    [
        circled,
        "\u200b".join,
        "\u00ad".join,
        " ".join,
        lambda s: s.replace("a", "а").replace("e", "е").replace("o", "о"),  # Cyrillic letters
        lambda s: base64.b64encode(s.encode()).decode(),
        lambda s: base64.b64encode(base64.b64encode(s.encode())).decode(),
        lambda s: "".join(f"%{ord(c):02x}" for c in s),
        lambda s: "".join(f"&#{ord(c)};" for c in s),
        lambda s: "".join(f"\\u{ord(c):04x}" for c in s),
        lambda s: s.encode().hex(),
        lambda s: "".join(chr(0x0660 + int(c)) if c.isdigit() else c for c in s),  # Arabic digits
    ],
    ids=range(12),
)
def test_disguised(secret: str, disguise: object) -> None:
    """Unicode's tricks and encodings hide nothing: the whole disguise is one finding."""
    assert callable(disguise)
    hidden = disguise(secret)
    assert [found for found, _ in seen(f"Note: {hidden} and thanks")] == [hidden]


@pytest.mark.parametrize(
    "text",
    [
        "What is 12 * 13 + 4, and the square root of 1,000,000?",
        "Version 10.2.3.4 came out on 12/11/2023, 3.14159265 is close to pi.",
        "std::vector<int> v; // see my-long-file-name-2023-10-12.txt",
        "The password is wrong, and the token is missing.",
        "Meet me @ noon. Then we go home.",
        "From 1914 to 1918, and 1939 - 1945.",
        "getElementById and SupercalifragilisticExpialidocious",
        "Москва — столица России с населением 13 000 000 человек.",
    ],
)
def test_clean(text: str) -> None:
    """Ordinary text is left alone."""
    assert seen(text) == []


@pytest.mark.parametrize(
    ("text", "secret", "kind"),
    [
        ("I was born on 5 May 1990 in Rome", "5 May 1990", "BIRTHDATE"),
        ("geboren am 12.03.1985", "12.03.1985", "BIRTHDATE"),
        ("1990年5月1日生まれ", "1990年5月1日", "BIRTHDATE"),
        ("We live at 12 Baker Street now", "12 Baker Street", "ADDRESS"),
        ("Ich wohne in der Lindenstraße 12", "Lindenstraße 12", "ADDRESS"),
        ("J'habite 12 rue de la Paix", "12 rue de la Paix", "ADDRESS"),
        ("My name is Ana Kovač and", "Ana Kovač", "NAME"),
        ("меня зовут Иван Петров", "Иван Петров", "NAME"),
        ("password: hunter2!", "hunter2!", "KEY"),
        ("https://bob:pa55@[::1]/x", "bob:pa55", "LOGIN"),
    ],
)
def test_announced(text: str, secret: str, kind: str) -> None:
    """Words around a secret tell what it is."""
    assert (secret, kind) in seen(text)


def test_lists_are_searched_to_their_end() -> None:
    """The tenth of ten cards or telephone numbers in a row is found, too."""
    cards, phones = " ".join(["4111 1111 1111 1111"] * 10), " ".join(["212-555-0143"] * 10)
    for numbers in (cards, phones):
        left = numbers
        for found, _ in seen(numbers):
            left = left.replace(found, "")
        assert not any(map(str.isdigit, left))


def test_your_own() -> None:
    """Patterns and recognisers of the app find their kinds; a kind that is no name is refused."""
    own = Redaction(
        patterns={"ORDER": r"ORD-\d{4}"},
        recognisers=(lambda text: [(0, 3, "NAME")] if text[:3] == "Ana" else [],),
    )
    assert seen("Ana has ORD-1234", own) == [("Ana", "NAME"), ("ORD-1234", "ORDER")]
    for bad in (
        {"patterns": {"order": "x"}},
        {"patterns": {"ORDER": "("}},
        {"max_share": 2},
        {"regions": "DE"},
    ):
        with pytest.raises(ConfigError):
            Redaction(**bad)


HOSTILE = [
    "a",
    "1",
    "1 ",
    "1.",
    "a.",
    "@.",
    "A1",
    "+1-",
    "%40",
    "(1)",
    "a@",
    "A ",
    '"',
    "key=",
    "eyJa.",
    "a@a.",
]
HOSTILE += [
    "-----BEGIN PRIVATE KEY-----",
    "ul. A ",
    "1 Aa ",
    "12 rue de ",
    "AB12",
    "市",
    "都",
    "a at ",
    "f:",
    "1.1.",
]
HOSTILE += ["password: ", "Calle de ", "Ab de ", "가 ", "born ", "&#1;", "ab12 ", "sk-", "http://a:", "1-"]
RECOGNISERS: dict[str, Callable[[str], Iterable[object]]] = {one.__name__: one for one in recognise._BUILT_IN}
RECOGNISERS |= {"phones": partial(phones, regions=REGIONS), "views": views}


@pytest.mark.parametrize("name", RECOGNISERS)
def test_hostile_text_takes_linear_time(name: str) -> None:
    """Four times the text that a recogniser likes least takes about four times as long."""

    def seconds(piece: str, n: int) -> float:
        begun = time.process_time()
        list(RECOGNISERS[name]((piece * n)[:n]))
        return time.process_time() - begun

    for piece in HOSTILE:
        seconds(piece, 100)  # patterns are compiled, tables read
        if (long := seconds(piece, 4000)) > 0.05:
            assert long < 10 * max(seconds(piece, 1000), 0.005), piece
        assert long < 2, piece


def test_twenty_thousand_characters_are_searched_in_seconds() -> None:
    """The worst that is known: nothing but digits that could be numbers of many kinds."""
    begun = time.process_time()
    find("1 " * 10_000, PLAIN)
    assert time.process_time() - begun < 20


@pytest.mark.parametrize("piece", ["a", "1", "1 ", "a.", "@.", "A1", "+1-", "%40", "é", "(1)", "a@", "<"])
def test_no_text_takes_forever(piece: str) -> None:
    """Five thousand characters of anything are searched in a moment."""
    begun = time.process_time()
    find((piece * 5000)[:5000], PLAIN)
    assert time.process_time() - begun < 3
