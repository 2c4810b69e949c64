"""Recogniser of keys, tokens and passwords: known prefixes, words that announce one, and entropy."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from edgeai.egress.found import Span, matches

_KNOWN = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"sk-[\w-]{16,300}|xai-[\w-]{20,200}|gsk_\w{20,200}|r8_\w{20,200}|hf_\w{20,200}|nvapi-[\w-]{20,200}"
    r"|(?:AKIA|ASIA|AGPA|AIDA|AROA|ANPA|ABIA)[A-Z0-9]{16}"
    r"|gh[pousr]_\w{20,300}|github_pat_\w{20,300}|gl(?:pat|ptt|dt|rt)-[\w-]{16,300}"
    r"|xox[a-z]-[\w-]{10,300}|xapp-[\w-]{10,300}|https://hooks\.slack\.com/services/[\w/]{10,200}"
    r"|AIza[\w-]{30,60}|ya29\.[\w-]{20,300}|GOCSPX-[\w-]{20,60}"
    r"|(?:sk|pk|rk)_(?:live|test)_\w{10,300}|whsec_\w{16,200}|sq0\w{3}-[\w-]{20,60}"
    r"|SG\.[\w-]{16,40}\.[\w-]{16,60}|key-[0-9a-f]{32}|npm_\w{30,60}|pypi-[\w-]{30,400}"
    r"|do[opr]_v1_[0-9a-f]{40,80}|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{20,60}|AGE-SECRET-KEY-1\w{40,80}"
    r"|eyJ[\w-]{8,4000}\.[\w-]{4,8000}(?:\.[\w-]{0,4000})?"
    r")"
)
_BLOCK = re.compile(
    r"-----BEGIN ([A-Z ]{0,30}PRIVATE KEY[A-Z ]{0,10})-----.*?(?:-----END \1-----|\Z)", re.DOTALL
)
_HEADER = re.compile(r"\b(?:Bearer|Basic|Token)\s{1,3}([\w.~+/-]{12,2000}={0,2})", re.IGNORECASE)
_QUERY = re.compile(
    r"[?&](?:access_?token|token|api_?key|key|sig|signature|secret|password|pwd|auth|code)=([^\s&#\"'<>]{4,2000})",
    re.IGNORECASE,
)
_ANNOUNCED = re.compile(
    r"(?:pass(?:word|wort|phrase|code)|kennwort|\bpwd|\bPIN|secret(?:[ _-]?key)?|access[ _-]?key|api[ _-]?key"
    r"|\btoken|contraseña|mot de passe|\bsenha|palavra-passe|wachtwoord|hasło|пароль|parola|şifre|lösenord"
    r"|密码|密碼|パスワード|暗証番号|비밀번호)"
    r"(?:\s{0,2}[:=→]{1,2}|\s{1,2}(?:is|ist|est|es|é|to|lautet|jest|är|è)\b|は|是|为|：)\s{0,2}[:=]?\s{0,2}"
    r"[\"'`«]?([^\s\"'`»<>]{4,200})",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"(?<![\w/+.-])[A-Za-z0-9_+-]{20,500}={0,2}(?![\w/])")
_AWS_SECRET = re.compile(r"(?<![\w/+=])[A-Za-z0-9/+]{40}(?![\w/+=])")
_SEPARATORS = re.compile("[_+-]")


def keys(text: str) -> Iterator[Span]:
    """Keys, tokens, passwords."""
    for pattern in (_KNOWN, _BLOCK):
        yield from matches(pattern, text, "KEY")
    for pattern in (_HEADER, _QUERY):
        yield from matches(pattern, text, "KEY", 1)
    yield from _announced(text)
    for found in _TOKEN.finditer(text):
        if _is_random(found[0]):
            yield (*found.span(), "KEY")
    for found in _AWS_SECRET.finditer(text):
        if entropy_bits(found[0]) > 4.3 and _classes(found[0]) == 3:
            yield (*found.span(), "KEY")


def entropy_bits(text: str) -> float:
    """Shannon's entropy of the characters, in bits each."""
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())


def _announced(text: str) -> Iterator[Span]:
    """What follows "password:" and is no plain word: it holds a digit or a sign."""
    for found in _ANNOUNCED.finditer(text):
        value = found[1].rstrip(".,;:)]}。、，")
        if not value.isalpha() and len(value) >= 4 and any(c.isalnum() for c in value):
            yield found.start(1), found.start(1) + len(value), "KEY"


def _is_random(token: str) -> bool:
    """Whether this looks drawn by chance, and not like a name or several words with separators."""
    parts = [part for part in _SEPARATORS.split(token.rstrip("=")) if part]
    if all(part.isalpha() or part.isdigit() for part in parts):
        return False
    if len(parts) == 1 and len(token) >= 32 and re.fullmatch("[0-9a-f]+|[0-9A-F]+", token):
        return entropy_bits(token) > 3
    return _classes(token) == 3 and entropy_bits(token) > 3.7 and _changes(token) >= 4


def _classes(token: str) -> int:
    return sum((any(map(str.islower, token)), any(map(str.isupper, token)), any(map(str.isdigit, token))))


def _changes(token: str) -> int:
    """How often letters and digits take turns."""
    return sum(a.isdigit() != b.isdigit() for a, b in pairwise(token))
