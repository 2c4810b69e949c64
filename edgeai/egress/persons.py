"""Recognisers of dates of birth, postal addresses, and names that are announced.

These three go by words around the secret, in some languages. They are no named-entity recognition: a name
that nothing announces is not seen; `edgeai.ner` runs a model that sees them.
"""

import re
from collections.abc import Iterator

from edgeai.egress.found import Span, matches

_WORD = r"[^\W\d_]"
_DATE = re.compile(
    r"(?<!\d)(?:\d{1,2} ?[./-] ?\d{1,2} ?[./-] ?\d{2,4}|\d{4}[./-]\d{1,2}[./-]\d{1,2}|\d{4} ?[年년] ?\d{1,2} ?[月월] ?\d{1,2} ?[日일]?"
    rf"|\d{{1,2}}(?:st|nd|rd|th|er|\.|º)?,? (?:de |of )?{_WORD}{{3,12}}\.?,? (?:de |del |of )?\d{{4}}"
    rf"|{_WORD}{{3,12}}\.? \d{{1,2}}(?:st|nd|rd|th)?,? \d{{4}})(?!\d)"
)
_BORN_BEFORE = re.compile(
    r"(?:\bborn|birth|\bdob\b|d\.o\.b|geboren|\bgeb\.|né[e]?\b|naissance|nacid[oa]|nacimiento|nací|nascid[oa]|nascimento"
    r"|nasci\b|nat[oa]\b|nascita|geboorte|urodz|рожд|родил|doğ|född|født|syntynyt|出生|生年月日|誕生日|생년월일|जन्म|वाढ|ولد|الميلاد)"
    r"[^\n]{0,30}$",
    re.IGNORECASE,
)
_BORN_AFTER = re.compile(r"^\s?(?:生まれ|出生|生|년생|태어|doğumlu|года рождения|г\.\s?р)", re.IGNORECASE)

_NAME = rf"(?:[^\W\d_a-z]{_WORD}+|[^\W\d_a-z]\.)"
_NAMES = (
    rf"{_NAME}(?:[ '’-](?:(?:de|van|von|der|den|la|da|di|del|el|al|bin|ten|ter|dos) ){{0,2}}{_NAME}){{0,3}}"
)
_NUMBER = r"\d{1,5}(?: ?[a-zA-Z](?!\w))?(?: ?[-/] ?\d{1,5})?"
_ADDRESSES = (
    # 12 Baker Street; 221b N. Elm Ave., Apt 4
    re.compile(
        r"(?<![\w.])\d{1,5}[a-zA-Z]? (?:[NSEW]\.? )?(?:[A-Z0-9][\w'’.-]{0,20} ){1,3}"
        r"(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Boulevard|Blvd|Court|Ct|Square|Sq|Terrace|Place|Pl|Crescent"
        r"|Parkway|Pkwy|Highway|Hwy|Close|Gardens|Mews)\b\.?(?:,? (?:Apt|Apartment|Suite|Unit|Flat|#)\.? ?\w{1,5})?"
    ),
    # Lindenstraße 12; Kerkstraat 5; Storgatan 3; Mannerheimintie 7
    re.compile(
        rf"\b[^\W\d_a-z]{_WORD}{{1,30}}(?:straße|strasse|str\.|weg|platz|allee|gasse|ring|damm|ufer|straat|laan|plein|gracht|kade"
        rf"|gatan|vägen|gata|gate|veien|vej|gade|tie|katu) {_NUMBER}"
    ),
    re.compile(
        rf"\b{_NAME} (?:Straße|Strasse|Str\.|Weg|Platz|Allee|Straat|Laan|Caddesi|Cad\.|Sokak|Sok\.|utca) (?:No:? ?)?{_NUMBER}"
    ),
    # 12 rue de la Paix; 5, avenue Foch
    re.compile(
        r"(?<!\d)\d{1,4}(?: (?:bis|ter))?,? (?i:rue|avenue|boulevard|chemin|impasse|allée|place|quai|cours)"
        r"(?: (?:de|du|des|la|le|les|l[’']))*[ ’']+(?:[\w-]+ ){0,2}[^\W\d_a-z][\w’'-]+(?: [^\W\d_a-z][\w’'-]+){0,2}",
    ),
    # Calle Mayor 5; Via Roma, 12; Rua Augusta, 100; ul. Długa 7
    re.compile(
        rf"\b(?:Calle|C/|Avenida|Avda?\.|Paseo|Plaza|Carrera|Via|Viale|Piazza|Corso|Largo|Rua|Av\.|Travessa|Praça|[Uu]l\.|[Uu]lica|Aleja|[Aa]l\.)"
        rf" ?(?:(?:de|del|di|da|do|dos|das|la|las|los|el) ){{0,2}}{_NAMES},? (?:n[.º°]* ?|nº ?|No\.? ?)?{_NUMBER}"
    ),
    re.compile(
        r"(?:ул\.|улица|улице|просп\.|пр-т|проспект|переулок|пер\.|шоссе|вул\.)\s?[\w-]{2,30}(?: [\w-]{2,20})?,?\s?(?:д\.|дом|буд\.)?\s?\d{1,4}"
        r"(?:,?\s?(?:кв\.|квартира)\s?\d{1,4})?",
        re.IGNORECASE,
    ),
    # 北京市朝阳区建国路88号; 東京都渋谷区神南1-2-3, 神南1丁目2番3号; 서울특별시 강남구 테헤란로 12
    re.compile(r"[\u4e00-\u9fff]{2,16}[路街道巷弄]\d{1,5}号(?:[\w-]{0,12}[室楼层])?"),
    re.compile(
        r"[\u3040-\u30ff\u4e00-\u9fff]{1,8}[都道府県][\u3040-\u30ff\u4e00-\u9fff]{1,12}[市区町村][\u3040-\u30ff\u4e00-\u9fff]{0,10}\d{1,4}(?:[-−]\d{1,4}){1,3}"
    ),
    re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]{1,20}\d{1,3}丁目(?:\d{1,4}番(?:地)?(?:の?\d{1,4}号?)?)?"),
    re.compile(r"(?:[가-힣]{1,8}(?:시|도|군|구) ){1,3}[가-힣\d]{1,12}(?:로|길) ?\d{1,4}(?:-\d{1,4})?"),
)
_TITLED = re.compile(
    rf"(?<!\w)(?:Mr|Mrs|Ms|Miss|Dr|Prof|Herr|Frau|Herrn|Señora?|Sra?|Madame|Monsieur|Mme|Sig|Signora?|Dhr|Mevr|Pan|Pani)\.? ({_NAMES})"
)
_INTRODUCED = re.compile(
    r"(?i:my (?:full )?name is|my name's|mein Name ist|ich hei(?:ß|ss)e|je m[’']appelle|mon nom est|me llamo|mi nombre es"
    r"|meu nome é|me chamo|mi chiamo|il mio nome è|mijn naam is|ik heet|nazywam się|mam na imię|меня зовут|мене звати"
    r"|benim adım|jag heter|(?:patient|customer|client|employee|Kunde|Kundin)(?:'s name)?(?: is|:))"
    rf" ({_NAMES})"
)
_INTRODUCED_EAST = re.compile(
    r"(?:我叫|我的名字是|私の名前は|제 이름은)\s?([\u3040-\u30ff\u4e00-\u9fff가-힣]{2,6}?)(?=[,，。.、 ]|です|입니다|$)"
)


def births(text: str) -> Iterator[Span]:
    """Dates near a word such as "born"."""
    for found in _DATE.finditer(text):
        before = text[max(0, found.start() - 50) : found.start()]
        if _BORN_BEFORE.search(before) or _BORN_AFTER.search(text[found.end() : found.end() + 16]):
            yield (*found.span(), "BIRTHDATE")


def homes(text: str) -> Iterator[Span]:
    """Streets with a house number."""
    for pattern in _ADDRESSES:
        yield from matches(pattern, text, "ADDRESS")


def announced_names(text: str) -> Iterator[Span]:
    """Names after a title ("Mrs") or an introduction ("my name is")."""
    for pattern in (_TITLED, _INTRODUCED, _INTRODUCED_EAST):
        yield from matches(pattern, text, "NAME", 1)
