"""The one gate for outbound bytes: labels, redaction and its way back, and how much of a talk goes along."""

from edgeai.egress.choices import ask_for_label, read_label
from edgeai.egress.disclose import disclosed, parse_disclose
from edgeai.egress.found import Recogniser
from edgeai.egress.labels import LabelRule, Privacy, Rules, read_rules, stays
from edgeai.egress.redaction import Redaction
from edgeai.egress.release import Outbound, release
from edgeai.egress.restore import Restorer

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
