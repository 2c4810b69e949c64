"""Recogniser of telephone numbers (phonenumbers, the port of Google's libphonenumber)."""

import re
from collections.abc import Iterator, Sequence
from functools import cache

from edgeai.egress.found import Span
from edgeai.errors import ConfigError, MissingExtra

try:
    import phonenumbers
except ImportError as error:
    raise MissingExtra("Redaction needs phonenumbers", extra="privacy") from error

_CANDIDATE = re.compile(r"(?<![\w.])(?:\+ ?|00 ?)?\(?\d(?:[ ().\-/\u00a0]{0,3}\d){5,}(?!\w|\.\d)")
_CUE = re.compile(
    r"(?:phone|\btel\b|\btel[.:]|telefon|téléphone|teléfono|telefone|telefoon|telefono"
    r"|mobile|mobil|móvil|handy|celular"
    r"|\bcall|\bfax|whatsapp|\btext me|\bsms"
    r"|nummer|numéro|número|numer\b|numero|номер|тел|phone|电话|電話|手机|携帯|전화)"
    r"[^\d\n]{0,25}$",
    re.IGNORECASE,
)
_DATE = re.compile(r"\d{1,4}([-./ ])\d{1,2}\1\d{1,4}|\d{4}[-./]\d{4}|\d{4} ?- ?\d{4}")
_THOUSANDS = re.compile(r"\d{1,3}(?:[ .]\d{3})+")
_LONGEST_GROUPS = 8
_GROUP = re.compile(r"\d+")


def phones(text: str, regions: Sequence[str]) -> Iterator[Span]:
    """International numbers, and national ones of these regions (ISO 3166 codes).

    A national number counts when it is written as one (with separators, a leading zero, or ten digits and
    more) or a word such as "phone" comes before it.
    """
    for found in _CANDIDATE.finditer(text):
        announced = bool(_CUE.search(text, max(0, found.start() - 40), found.start()))
        for start, end in _numbers(text, found, tuple(regions), announced=announced):
            yield start, end, "PHONE"


def check_regions(regions: Sequence[str]) -> None:
    """Raise ConfigError for a code that is no region."""
    for region in regions:
        if region not in phonenumbers.SUPPORTED_REGIONS:
            raise ConfigError(f"{region!r} is no region", remedy='Give ISO 3166 codes, such as "DE"')


def _numbers(
    text: str, found: re.Match[str], regions: tuple[str, ...], *, announced: bool
) -> Iterator[tuple[int, int]]:
    """From each group of digits on, the longest neighbouring ones that are a number; they may overlap."""
    groups = [group.span() for group in _GROUP.finditer(text, *found.span())]
    for first in range(len(groups)):
        start = _with_prefix(text, found.start(), groups[first][0])
        for last in range(min(first + _LONGEST_GROUPS, len(groups)), first, -1):
            if _is_phone(text[start : groups[last - 1][1]], regions, announced=announced):
                yield start, groups[last - 1][1]
                break


def _with_prefix(text: str, least: int, start: int) -> int:
    """Where the number begins with the plus sign and the bracket before its first digit."""
    while start > least and text[start - 1] in "+( " and "+" in text[max(least, start - 3) : start]:
        start -= 1
    return start - 1 if start > least and text[start - 1] == "(" else start


def _is_phone(written: str, regions: tuple[str, ...], *, announced: bool) -> bool:
    digits = re.sub(r"\D", "", written)
    if not 7 <= len(digits) <= 17 or (_DATE.fullmatch(written) and not announced):
        return False
    if written.startswith("+") or (written.startswith("00") and len(digits) > 9):
        return _is_possible(f"+{digits.removeprefix('00')}")
    if not announced and not _is_written_as_phone(written, digits):
        return False
    return any(_form(region).fullmatch(digits) and _is_valid(written, region) for region in regions)


@cache
def _form(region: str) -> re.Pattern[str]:
    """What national numbers look like, roughly; much faster to ask than the library."""
    about = phonenumbers.PhoneMetadata.metadata_for_region(region)
    assert about is not None  # check_regions has seen it
    assert about.general_desc is not None
    prefix = about.national_prefix_for_parsing or about.national_prefix or ""
    country = about.country_code
    general = about.general_desc.national_number_pattern
    return re.compile(
        f"(?:{prefix})?(?:{country})?(?:{prefix})?(?:{general})" if prefix else f"(?:{country})?{general}"
    )


def _is_written_as_phone(written: str, digits: str) -> bool:
    if written == digits:
        return len(digits) >= 10 or digits.startswith("0")
    return not _THOUSANDS.fullmatch(written) and not re.fullmatch(r"\d+\.\d+", written) and len(digits) >= 8


def _is_possible(written: str) -> bool:
    try:
        return bool(phonenumbers.is_possible_number(phonenumbers.parse(written)))
    except phonenumbers.NumberParseException:
        return False


def _is_valid(written: str, region: str) -> bool:
    try:
        return bool(phonenumbers.is_valid_number(phonenumbers.parse(written, region)))
    except phonenumbers.NumberParseException:
        return False
