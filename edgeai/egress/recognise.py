"""All recognisers together: what of a text is a secret. Needs the extra "privacy"."""

import re
from collections.abc import Iterable, Iterator

from edgeai.egress.contacts import addresses_of_machines, emails, logins
from edgeai.egress.found import Span
from edgeai.egress.keys import keys
from edgeai.egress.normalise import views
from edgeai.egress.numbers import cards, ibans, identities
from edgeai.egress.persons import announced_names, births, homes
from edgeai.egress.phones import check_regions, phones
from edgeai.egress.redaction import Redaction, check_kind

_BUILT_IN = (
    keys,
    logins,
    emails,
    ibans,
    cards,
    identities,
    addresses_of_machines,
    births,
    homes,
    announced_names,
)
# Where readings overlap at the same length the first of these names the secret.
_ORDER = ("KEY", "LOGIN", "EMAIL", "IBAN", "CARD", "BIRTHDATE", "ID", "IP", "MAC", "PHONE", "ADDRESS", "NAME")


def check(redaction: Redaction) -> None:
    """Raise ConfigError for what only the libraries can tell: regions that do not exist."""
    check_regions(redaction.regions)


def find(text: str, redaction: Redaction) -> list[Span]:
    """The secrets of a text, in order and without overlap; what overlaps is one."""
    spans = [
        (*view.origin(start, end), kind)
        for view in views(text)
        for start, end, kind in _recognised(view.text, redaction)
        if start < end
    ]
    return list(_merged(spans))


def _recognised(text: str, redaction: Redaction) -> Iterator[Span]:
    for recognise in _BUILT_IN:
        yield from recognise(text)
    yield from phones(text, redaction.regions)
    for kind, pattern in redaction.patterns.items():
        yield from ((*found.span(), kind) for found in re.finditer(pattern, text))
    for own in redaction.recognisers:
        yield from ((start, end, check_kind(kind)) for start, end, kind in own(text))


def _merged(spans: Iterable[Span]) -> Iterator[Span]:
    cluster: list[Span] = []
    end = -1
    for span in sorted(set(spans)):
        if cluster and span[0] >= end:
            yield _joined(cluster)
            cluster = []
        cluster.append(span)
        end = max(end, span[1]) if len(cluster) > 1 else span[1]
    if cluster:
        yield _joined(cluster)


def _joined(cluster: list[Span]) -> Span:
    """The whole of them, named by the longest."""
    longest = max(cluster, key=lambda span: (span[1] - span[0], -_rank(span[2])))
    return min(span[0] for span in cluster), max(span[1] for span in cluster), longest[2]


def _rank(kind: str) -> int:
    return _ORDER.index(kind) if kind in _ORDER else -1
