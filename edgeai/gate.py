"""A policy's word on what leaves: the egress gate as the app has set it."""

import sys
from typing import TYPE_CHECKING

from edgeai.cloud import Cloud
from edgeai.egress import require_redaction
from edgeai.policy import Policy
from edgeai.types import Request

if TYPE_CHECKING:
    from edgeai.egress import Outbound

__all__ = ["announce", "check_redaction", "outbound"]


def outbound(request: Request, policy: Policy, cloud: Cloud) -> "Outbound":
    """What may leave of this request for this cloud; raises what `edgeai.egress.release` raises."""
    from edgeai.egress.outbound import release

    return release(
        request,
        privacy=policy.privacy,
        disclose=policy.disclose,
        endpoint=cloud.endpoint,
        labels=policy.rules,
        redaction=policy.redaction,
        document_chars=policy.document_chars,
    )


def check_redaction(policy: Policy) -> None:
    """Raise MissingExtra when the policy redacts and the recognisers are not installed."""
    if policy.redacts:
        require_redaction(policy.redaction)


def announce(cloud: Cloud, body: bytes) -> None:
    """Tell the interpreter's audit hooks that these bytes are about to leave; one of them may forbid it."""
    sys.audit("edgeai.egress", cloud.endpoint, len(body))
