"""What an app may set about redaction."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from types import MappingProxyType
from typing import Any

from edgeai.egress.found import Recogniser
from edgeai.errors import ConfigError

REGIONS = (
    *("US", "GB", "DE", "FR", "ES", "IT", "NL", "PT", "PL", "RU", "UA", "TR"),
    *("BR", "MX", "IN", "CN", "JP", "KR"),
)
_KIND = re.compile(r"[A-Z]+(?:_[A-Z]+)*")
_MAX_KIND = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Redaction:
    """What is replaced beside the kinds that edgeai knows, and how much may be.

    patterns: regular expressions of your own, by kind: ``{"ORDER": r"ORD-[0-9]{8}"}``.
    recognisers: callables that are given a text and give (start, end, kind) for each secret in it; the place
        for a named-entity model. They see the text normalised, and may be called often, from any thread.
    regions: whose national telephone numbers are known, as ISO 3166 codes; international ones always are.
    max_share: a question of which more than this share of the characters would be replaced (0 to 1) stays
        on the device, because little of it would be left to answer.
    """

    patterns: Mapping[str, str] = field(default_factory=dict)
    recognisers: tuple[Recogniser, ...] = ()
    regions: tuple[str, ...] = REGIONS
    max_share: float = 0.5

    def __post_init__(self) -> None:
        for kind, pattern in self.patterns.items():
            check_kind(kind)
            try:
                re.compile(pattern)
            except (re.error, TypeError) as error:
                raise ConfigError(f"The pattern of {kind} is {pattern!r}", why=str(error)) from None
        if isinstance(self.recognisers, str) or not all(map(callable, self.recognisers)):
            raise ConfigError(f"recognisers is {self.recognisers!r}, expected a tuple of callables")
        if isinstance(self.regions, str):
            raise ConfigError("regions is one text", remedy='Give a tuple, as ("DE", "FR")')
        if isinstance(self.max_share, bool) or not 0 <= self.max_share <= 1:
            raise ConfigError(f"max_share is {self.max_share!r}, expected a number from 0 to 1")
        object.__setattr__(self, "patterns", MappingProxyType(dict(self.patterns)))
        object.__setattr__(self, "recognisers", tuple(self.recognisers))

    def __reduce__(self) -> tuple[partial["Redaction"], tuple[()]]:
        return partial(Redaction, **values_of(self)), ()


def values_of(rules: Any) -> dict[str, Any]:  # noqa: ANN401  # any dataclass
    """The fields of a dataclass by name, with dicts for the read-only mappings, which cannot be pickled."""
    values = {one.name: getattr(rules, one.name) for one in fields(rules)}
    return {
        name: dict(value) if isinstance(value, MappingProxyType) else value for name, value in values.items()
    }


def check_kind(kind: str) -> str:
    """The kind, which becomes the placeholder's name. Raises ConfigError for one that cannot."""
    if not isinstance(kind, str) or len(kind) > _MAX_KIND or not _KIND.fullmatch(kind):
        raise ConfigError(f"{kind!r} is no kind of secret", remedy='Give capital letters, as "ORDER"')
    return kind
