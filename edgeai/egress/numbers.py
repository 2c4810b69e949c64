"""Recognisers of numbers with a check: payment cards, IBANs, national identity numbers (python-stdnum)."""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from typing import Protocol

from edgeai.egress.found import Span, digit_runs
from edgeai.errors import MissingExtra

try:
    from stdnum import iban, luhn
except ImportError as error:
    raise MissingExtra("Redaction needs python-stdnum", extra="privacy") from error

# The first digits that the card networks were given (ISO/IEC 7812).
_NETWORKS = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720|220[0-4])\d{12}"
    r"|3[47]\d{13}|3(?:0[0-5]|[689]\d)\d{11,16}|(?:6011|64[4-9]\d|65\d\d|35[2-8]\d|62\d\d|60\d\d|8[12]\d\d|9792)\d{12,15}"
    r"|(?:50|5[6-9]|6\d)\d{11,17}"
)
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}[ .-]?\d{2}(?:[ .-]?[A-Za-z0-9]){11,30}")
# Identity numbers of digits only, by their length. Each has check digits or a date in it.
_BY_LENGTH: dict[int, tuple[str, ...]] = {
    9: ("nl.bsn", "ca.sin", "il.idnr", "pt.nif", "cz.rc", "au.tfn"),
    10: ("gb.nhs", "bg.egn", "dk.cpr", "cz.rc", "se.personnummer", "is_.kennitala", "ua.rntrc", "at.vnr"),
    11: (
        "de.idnr",
        "pl.pesel",
        "br.cpf",
        "tr.tckimlik",
        "no.fodselsnummer",
        "be.nn",
        "hr.oib",
        "ee.ik",
        "lt.asmens",
        "gr.amka",
        "ec.ci",
    ),
    12: ("in_.aadhaar", "ru.inn", "se.personnummer"),
    13: ("kr.rrn", "ro.cnp", "si.emso", "za.idnr", "th.pin", "ch.ssn"),
    15: ("fr.nir",),
    16: ("id.nik",),
    18: ("cn.ric",),
}
# Those with letters, or with separators that tell them from other numbers.
_BY_FORM: tuple[tuple[str, str | None], ...] = (
    (r"\d{8}[ -]?[A-Z]", "es.dni"),
    (r"[XYZ][ -]?\d{7}[ -]?[A-Z]", "es.nie"),
    (r"[A-Z]{6}\d{2}[A-EHLMPR-T]\d{2}[A-Z]\d{3}[A-Z]", "it.codicefiscale"),
    (r"\d{6}[-+A]\d{3}[0-9A-Y]", "fi.hetu"),
    (r"\d{6}[-+]\d{4}", "se.personnummer"),
    (r"[A-Z]{4}\d{6}[HM][A-Z]{5}[0-9A-Z]\d", "mx.curp"),
    (r"[A-Z]{5}\d{4}[A-Z]", "in_.pan"),
    (r"\d{7}[A-W][A-IW]?", "ie.pps"),
    (r"\d{6}[ ]?\d{8}[ ]?\d{3}[\dX]", "cn.ric"),
    (r"\d{1,2}\.?\d{3}\.?\d{3}-[\dK]", "cl.rut"),
    (r"\d{6}[ ]?\d{8}\d{3}X", "cn.ric"),
    (r"[12][ ]?\d{2}[ ]?\d{2}[ ]?(?:2[AB])[ ]?\d{3}[ ]?\d{3}[ ]?\d{2}", "fr.nir"),
    (r"\d{3}[- ]\d{2}[- ]\d{4}", "us.ssn"),
    (r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D]", None),  # UK, National Insurance
)
_FORMS = tuple((re.compile(rf"(?<![\w]){form}(?![\w])", re.IGNORECASE), name) for form, name in _BY_FORM)


class _Checker(Protocol):
    def is_valid(self, number: str) -> bool: ...


def cards(text: str) -> Iterator[Span]:
    """Payment cards: the digits of a card network that pass Luhn's test (ISO/IEC 7812-1)."""
    for run in digit_runs(text, least=12, most=19, thorough=True):
        if _NETWORKS.fullmatch(run.digits) and luhn.is_valid(run.digits):
            yield run.start, run.end, "CARD"


def ibans(text: str) -> Iterator[Span]:
    """Bank accounts with the check digits and the length of their country (ISO 13616)."""
    for found in _IBAN.finditer(text):
        candidate = found[0]
        for end in range(len(candidate), 14, -1):
            if candidate[end - 1].isalnum() and _is_iban(candidate[:end]):
                yield found.start(), found.start() + end, "IBAN"
                break


def identities(text: str) -> Iterator[Span]:
    """National identity, tax and insurance numbers of persons, for some forty countries."""
    for run in digit_runs(text, least=9, most=18):
        if _is_identity(run.digits, _BY_LENGTH.get(len(run.digits), ())):
            yield run.start, run.end, "ID"
    for pattern, name in _FORMS:
        for found in pattern.finditer(text):
            if name is None or _is_identity(found[0].upper(), (name,)):
                yield (*found.span(), "ID")


def _is_iban(candidate: str) -> bool:
    compact = re.sub("[ .-]", "", candidate).upper()
    turned = compact[4:] + compact[:4]
    if int("".join(str(int(character, 36)) for character in turned)) % 97 != 1:
        return False
    return bool(iban.is_valid(compact, check_country=False))


def _is_identity(number: str, names: Sequence[str]) -> bool:
    return any(_checker(name).is_valid(number) for name in names)


@cache
def _checker(name: str) -> _Checker:
    checker: _Checker = import_module(f"stdnum.{name}")
    return checker
