"""Labels on messages and parts: what may leave, where to, and under which transformation.

Deny by default: a label without a rule keeps its message on the device. Where several labels meet, the
strictest rule holds.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from edgeai.errors import ConfigError, PrivacyViolation
from edgeai.types import Message, read_labels

Privacy = Literal["local", "redact", "allow"]
STRICTNESS: tuple[Privacy, ...] = ("allow", "redact", "local")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRule:
    """What may leave of a message with a label.

    privacy: "local" nothing, "redact" with its secrets replaced, "allow" as it is.
    endpoints: the addresses that may get it, such as "https://llm.example.org/v1": same scheme, host and
        port, and a path at or below. None: any that is configured.
    """

    privacy: Privacy
    endpoints: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.privacy not in STRICTNESS:
            raise ConfigError(f"A label's privacy is {self.privacy!r}, expected one of {STRICTNESS}")
        if self.endpoints is None:
            return
        if isinstance(self.endpoints, str):
            raise ConfigError("A label's endpoints are one text", remedy="Give a tuple of addresses")
        for endpoint in self.endpoints:
            if not (isinstance(endpoint, str) and _place(endpoint)[0] and _place(endpoint)[1]):
                raise ConfigError(
                    f"A label's endpoint is {endpoint!r}", remedy='Give a URL, as "https://llm.example.org"'
                )

    def reaches(self, endpoint: str) -> bool:
        """Whether this address is among the endpoints."""
        return self.endpoints is None or any(_within(endpoint, allowed) for allowed in self.endpoints)


Rules = Mapping[str, LabelRule]


def read_rules(given: object) -> Rules:
    """The rules as the policy holds them, from ``{"health": "local", "sales": LabelRule(…)}``.

    Raises ConfigError.
    """
    if not isinstance(given, Mapping):
        raise ConfigError(f"labels is {given!r}", remedy='Give a dict, as {"health": "local"}')
    for name in given:
        if not isinstance(name, str) or read_labels(name) != {name}:
            raise ConfigError(f"{name!r} is no label", remedy="Give a text without commas and outer spaces")
    return {
        name: rule if isinstance(rule, LabelRule) else LabelRule(privacy=rule) for name, rule in given.items()
    }


def stays(message: Message, rules: Rules) -> bool:
    """Whether no endpoint at all may see this message."""
    return message.holds_private or any(
        name not in rules or rules[name].privacy == "local" for name in message.labels
    )


def verdicts(message: Message, rules: Rules, endpoint: str, privacy: Privacy) -> tuple[Privacy, ...]:
    """What may be done with each part of a message (a plain text is one part).

    ``privacy`` is the policy's, for what has no label. Raises PrivacyViolation when a part may not leave, or
    not to this endpoint.
    """
    if message.holds_private:
        raise PrivacyViolation("A private message may not leave the device")
    own = read_labels(message.label)
    parts = (
        [own] if isinstance(message.content, str) else [own | read_labels(p.label) for p in message.content]
    )
    return tuple(_verdict(names, rules, endpoint, privacy) for names in parts)


def _verdict(names: frozenset[str], rules: Rules, endpoint: str, privacy: Privacy) -> Privacy:
    return strictest(_rule(name, rules, endpoint) for name in sorted(names)) if names else privacy


def strictest(verdicts: Iterable[Privacy]) -> Privacy:
    """The one that discloses least."""
    return max(verdicts, key=STRICTNESS.index)


def _rule(name: str, rules: Rules, endpoint: str) -> Privacy:
    rule = rules.get(name)
    if rule is None or rule.privacy == "local":
        why = "The policy has no rule for it" if rule is None else "The policy keeps it on the device"
        raise PrivacyViolation(f"What is labelled {name!r} may not leave the device", why=why)
    if not rule.reaches(endpoint):
        raise PrivacyViolation(f"What is labelled {name!r} may not be sent to {endpoint}")
    return rule.privacy


def _place(url: str) -> tuple[str, str, int | None, str]:
    try:
        parts = urlsplit(url)
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    except ValueError:
        return "", "", None, ""
    return parts.scheme, (parts.hostname or "").rstrip("."), port, parts.path.rstrip("/")


def _within(endpoint: str, allowed_one: str) -> bool:
    *origin, path = _place(endpoint)
    *allowed_origin, allowed_path = _place(allowed_one)
    below = path == allowed_path or path.startswith(f"{allowed_path}/")
    return bool(origin[1]) and origin == allowed_origin and below and ".." not in path.split("/")
