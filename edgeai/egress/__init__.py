"""The one gate for outbound bytes: labels, redaction and its way back, and how much of a talk goes along."""

from typing import TYPE_CHECKING

from edgeai.egress.choices import ask_for_label, read_label
from edgeai.egress.disclose import disclosed, parse_disclose
from edgeai.egress.found import Recogniser
from edgeai.egress.labels import LabelRule, Privacy, Rules, read_rules, stays
from edgeai.egress.redaction import Redaction

if TYPE_CHECKING:
    from edgeai.egress.outbound import Outbound, release
    from edgeai.egress.restore import Restorer

# Loaded when something leaves: most programs begin without.
_LAZY = {
    "Outbound": "edgeai.egress.outbound",
    "Restorer": "edgeai.egress.restore",
    "release": "edgeai.egress.outbound",
}

__all__ = [
    "LabelRule",
    "Outbound",
    "Privacy",
    "Recogniser",
    "Redaction",
    "Restorer",
    "Rules",
    "ask_for_label",
    "disclosed",
    "parse_disclose",
    "read_label",
    "read_rules",
    "release",
    "require_redaction",
    "stays",
]


def require_redaction(redaction: Redaction) -> None:
    """Raise MissingExtra unless all recognisers are installed, and ConfigError for regions that are none."""
    from edgeai.egress.recognise import check

    check(redaction)


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'edgeai.egress' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
