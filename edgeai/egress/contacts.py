"""Recognisers of electronic addresses: e-mail, IP, MAC, and logins in URLs."""

import ipaddress
import re
from collections.abc import Iterator

from edgeai.egress.found import Span, matches

_LOCAL = r"(?<![\w.%+'-])[\w%+'-](?:[\w.%+'-]{0,62}[\w%+'-])?"
_LABEL = r"[^\W_](?:[\w-]{0,61}[^\W_])?"
_OPEN, _CLOSE = r"\s?[\[({<]\s?", r"\s?[\])}>]\s?"
_AT = r"(?:at|arroba|ät|chez|собака)"
_DOT = r"(?:dot|punkt|punto|point|ponto|nokta|точка|kropka)"
_EMAILS = (
    re.compile(rf"{_LOCAL}@{_LABEL}(?:\.{_LABEL})+"),
    re.compile(rf"{_LOCAL}\s{{0,2}}@\s{{0,2}}{_LABEL}(?:(?:\.|\s\.\s){_LABEL})+"),
    re.compile(
        rf"{_LOCAL}{_OPEN}{_AT}{_CLOSE}{_LABEL}(?:(?:\.|{_OPEN}{_DOT}{_CLOSE}|\s{_DOT}\s){_LABEL})+", re.I
    ),
    re.compile(rf"{_LOCAL}\s{_AT}\s{_LABEL}(?:\s{_DOT}\s{_LABEL})+", re.I),
    re.compile(rf"\"[^\"\n]{{1,64}}\"@{_LABEL}(?:\.{_LABEL})+"),
)
_LOGIN = re.compile(r"[a-z][a-z0-9+.-]{1,20}://([^\s/@:?#]{0,100}:[^\s/@]{1,200})@", re.IGNORECASE)
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f:]{6,39}(?:\.\d{1,3}){0,3}(?![\w:])")
_MAC = re.compile(
    r"(?<![\w:-])(?:[0-9A-Fa-f]{2}([:-]))(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}(?![\w:-])"
    r"|(?<![\w.])(?:[0-9A-Fa-f]{4}\.){2}[0-9A-Fa-f]{4}(?![\w.])"
)
_VERSION = re.compile(r"(?:\bv|version|release)[ .:=]{0,2}$", re.IGNORECASE)


def emails(text: str) -> Iterator[Span]:
    """E-mail addresses (RFC 5322's common forms), also as "ana (at) mail (dot) com" and with blanks."""
    for pattern in _EMAILS:
        yield from matches(pattern, text, "EMAIL")


def logins(text: str) -> Iterator[Span]:
    """The "user:password" of a URL (RFC 3986, section 3.2.1)."""
    yield from matches(_LOGIN, text, "LOGIN", 1)


def addresses_of_machines(text: str) -> Iterator[Span]:
    """IPv4, IPv6 and MAC addresses; this machine's own (loopback) and version numbers are none."""
    for pattern in (_IPV4, _IPV6):
        for found in pattern.finditer(text):
            if _is_address(found[0]) and not _VERSION.search(text, max(0, found.start() - 12), found.start()):
                yield (*found.span(), "IP")
    for found in _MAC.finditer(text):
        if any(character.isdigit() for character in found[0]):
            yield (*found.span(), "MAC")


def _is_address(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified) and any(c.isdigit() for c in text)
