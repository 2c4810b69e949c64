"""Sending what waited for the network: oldest first, within the budget, through the same gate as ever."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeai.arriving import collected
from edgeai.cloud import Cloud, tries_of
from edgeai.cloud.tiers import tiers_of
from edgeai.errors import BudgetExceeded, CloudError, EdgeError
from edgeai.gate import outbound
from edgeai.monitor import CloudTimes, TimeModel
from edgeai.outbox import Outbox, Queued
from edgeai.policy import Policy
from edgeai.record import QueryRecord
from edgeai.types import Request

if TYPE_CHECKING:
    from edgeai.ledger import Ledger

__all__ = ["QueuedAnswer", "send"]

_log = logging.getLogger("edgeai.resend")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedAnswer:
    """The cloud's late answer to a question that waited. ``cost_usd`` is None when the price is unknown."""

    question: Queued
    text: str
    model: str
    endpoint: str
    cost_usd: float | None = None


def send(
    outbox: Outbox,
    cloud: Cloud,
    policy: Policy,
    ledger: "Ledger | None",
    deliver: Callable[[QueuedAnswer], bool] | None,
) -> int:
    """Send what waits until the queue is empty, the network is away or the budget is spent; how many left.

    ``deliver`` is called with each answer; one that it takes is then forgotten here, others stay in the
    queue. A question that may not leave now is refused and stays, to be looked at.
    """
    from edgeai.net.breaker import is_reachable

    first, sent = tiers_of(cloud)[0], 0
    while is_reachable(first.endpoint) and (question := outbox.claim()) is not None:
        try:
            answer = _answer(question, first, policy, ledger)
        except BudgetExceeded as error:
            outbox.back(question.id)
            _log.info("the queue waits for its budget: %s", error)
            return sent
        except CloudError as error:
            if not error.sends:
                outbox.back(question.id)
                return sent
            outbox.unknown(question.id, str(error))
        except EdgeError as error:
            outbox.refused(question.id, str(error))
        except BaseException:  # Ctrl-C: what is under way may have left
            outbox.unknown(question.id, "It was interrupted while it was sent")
            raise
        else:
            sent += 1
            outbox.answered(question.id, answer.text)
            if deliver is not None and deliver(answer):
                outbox.delivered(question.id)
    return sent


def _answer(question: Queued, cloud: Cloud, policy: Policy, ledger: "Ledger | None") -> QueuedAnswer:
    from edgeai import net

    request = question.request
    assert request is not None  # claimed questions are readable
    leaving = outbound(request, policy, cloud)
    body = cloud.encode(leaving.released)
    record = _record(request, cloud, policy, ledger)
    record.before_sending(len(body))
    record.disclose(cloud, body, leaving)
    sends, usage = 1, None
    try:
        text, end = net.submit(collected(cloud, leaving)).result()
        usage, sends = end.usage, end.sends
    except CloudError as error:
        sends = error.sends
        raise
    finally:
        cost_usd = cloud.price.cost(usage) if cloud.price is not None and usage is not None else None
        record.settle([sends], cost_usd)
    return QueuedAnswer(
        question=question, text=text, model=cloud.model, endpoint=cloud.endpoint, cost_usd=cost_usd
    )


def _record(request: Request, cloud: Cloud, policy: Policy, ledger: "Ledger | None") -> QueryRecord:
    return QueryRecord(
        request=request,
        policy=policy,
        prices=(cloud.price,),
        tries=(tries_of(cloud),),
        ledger=ledger,
        device_times=TimeModel(),
        cloud_times=CloudTimes(),
    )
