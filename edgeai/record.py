"""What is written down of one query: money before it is sent, and the end, whatever it was."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgeai.cloud import Cloud
from edgeai.cloud.tiers import tiers_of
from edgeai.economics import Price, worst_cost
from edgeai.errors import BudgetExceeded, EdgeError, LedgerError, PolicyError
from edgeai.gate import announce
from edgeai.monitor import CloudTimes, TimeModel
from edgeai.policy import Policy
from edgeai.run import Run
from edgeai.standing import Contracts
from edgeai.types import Answer, Request

if TYPE_CHECKING:
    from edgeai.egress import Outbound
    from edgeai.ledger import Ledger


log = logging.getLogger("edgeai.record")


@dataclass(frozen=True, slots=True)
class Send:
    """What was set aside for one cloud: the ledger's number, if it has one, and the most one try can cost."""

    reservation: int | None
    worst_usd: float


@dataclass(slots=True)
class QueryRecord:
    """One query's entry in the ledger and in the time models. Safe to use once, from one thread at a time.

    ``then`` is told of an answer when it is on record, of None when the query has ended without one.
    """

    request: Request
    policy: Policy
    prices: tuple[Price | None, ...]
    tries: tuple[int, ...]
    ledger: "Ledger | None"
    device_times: TimeModel
    cloud_times: CloudTimes
    contracts: Contracts = field(default_factory=Contracts)
    then: Callable[[Run, Answer | None], None] = lambda run, answer: None
    sent: "dict[int, Send]" = field(default_factory=dict)

    def before_sending(self, n_bytes: int, tier: int = 0) -> None:
        """Reserve the most that this cloud can cost, if every try is billed; the rest comes back at the end.

        The budget "query" is for one answer. Raises BudgetExceeded, with the numbers.
        """
        budget, price = self.policy.budget_usd, self.prices[tier]
        if price is None:
            if budget:
                raise PolicyError(NO_PRICE, remedy=PRICE_REMEDY)
            return
        n_images = sum(len(message.images) for message in self.request.messages)
        request = self.request
        guided = bool(request.tools or request.schema)
        worst_usd = worst_cost(price, n_bytes, request.max_tokens, images=n_images, guided=guided)
        if worst_usd > (limit := budget.get("query", worst_usd)):
            raise BudgetExceeded(
                f"The answer could cost ${worst_usd:.4f}, the budget for a query is ${limit:.4f}",
                remedy="Raise budget_usd['query'], or lower max_tokens",
            )
        limits = {window: usd for window, usd in budget.items() if window != "query"}
        reservation = None
        if limits and self.ledger is not None:
            reservation = self.ledger.reserve(worst_usd * self.tries[tier], limits)
            self.ledger.sent(reservation)  # so that a crash while the cloud answers does not give it back
        self.sent[tier] = Send(reservation, worst_usd)

    def disclose(self, cloud: Cloud, body: bytes, outbound: "Outbound") -> None:
        """Tell audit hooks, and write a row of the disclosure record, if there is one. Raises LedgerError."""
        announce(cloud, body)
        if self.ledger is not None:
            self.ledger.disclosures.add(
                endpoint=cloud.endpoint,
                model=cloud.model,
                body=body,
                labels=outbound.labels,
                redactions=outbound.redactions,
                task=self.request.task,
            )

    def answered(self, run: Run, answer: Answer) -> None:
        """Learn from the answer and write its row."""
        self._learn(run, answer)
        self.settle(run.sent.times, answer.cost_usd)
        self.contracts.ended(answer)
        if self.ledger is not None:
            self.ledger.record(
                answer,
                task=self.request.task,
                prompt=self.request.messages,
                wasted_cost_usd=self._lost_usd(run, answered=answer.source == "cloud"),
            )
        self.then(run, answer)

    def failed(self, run: Run, error: EdgeError) -> None:
        """Write the row of a query that ended with an error."""
        self.settle(run.sent.times, None)
        if self.ledger is not None:
            self.ledger.record_error(
                error,
                model=run.labels.device_model,
                engine=run.labels.engine,
                endpoint=run.labels.endpoint if run.sent.n_bytes else None,
                task=self.request.task,
                disclosed_bytes=run.sent.n_bytes,
                wasted_cost_usd=self._lost_usd(run, answered=False),
                prompt=self.request.messages,
            )
        self.then(run, None)

    def settle(self, sends: Sequence[int], cost_usd: float | None) -> None:
        """Replace what was reserved by what was spent, or by the most it can be where that is not known.

        ``sends`` says how often the query left for each cloud; the last one is that of ``cost_usd``.
        An answer is not lost for it: what cannot be settled stays reserved, which is the careful side.
        """
        for tier, send in self.sent.items():
            if send.reservation is None or self.ledger is None:
                continue
            n_sends = sends[tier]
            usd = cost_usd if tier == len(sends) - 1 and cost_usd is not None else send.worst_usd * n_sends
            try:
                if n_sends:
                    self.ledger.settle(send.reservation, usd)
                else:
                    self.ledger.release(send.reservation)
            except LedgerError as error:
                log.warning("the cost of a query could not be settled: %s", error)

    def _lost_usd(self, run: Run, *, answered: bool) -> float:
        """The most that was spent on clouds which gave no answer, all tries together."""
        lost = (tier for tier in self.sent if not (answered and tier == run.sent.tier))
        return sum((self.sent[tier].worst_usd * run.sent.times[tier] for tier in lost), 0.0)

    def _learn(self, run: Run, answer: Answer) -> None:
        finished = run.finished
        if finished is not None and not self.request.choices:
            self.device_times.observe(
                n_in=finished.n_prompt - finished.n_cached,
                n_out=run.monitor.n_tokens,
                prefill_s=finished.prefill_s,
                decode_s=run.monitor.decode_s,
            )
        if answer.source == "cloud" and run.cloud_s is not None and answer.finish_reason != "cancelled":
            self.cloud_times.observe(run.cloud_s)


NO_PRICE = "The policy has a budget, but the price of the cloud's model is not known"
PRICE_REMEDY = 'Give the cloud a price=Price(…), or install the price list: pip install "edgeai[prices]"'


def check_budget(policy: Policy, cloud: Cloud | None, *, has_ledger: bool) -> None:
    """Raise PolicyError when the policy's budget could not be kept: no price, or no record of spending."""
    budget = policy.budget_usd
    if not budget or cloud is None:
        return
    if any(one.price is None for one in tiers_of(cloud)):
        raise PolicyError(NO_PRICE, remedy=PRICE_REMEDY)
    if not has_ledger and set(budget) - {"query"}:
        raise PolicyError(
            "A budget per hour, day or month needs the ledger, which is switched off",
            remedy="Use ledger=True",
        )
