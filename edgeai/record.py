"""What is written down of one query: money before it is sent, and the end, whatever it was."""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeai.cloud import Cloud
from edgeai.economics import Price, worst_cost
from edgeai.egress import Outbound
from edgeai.errors import BudgetExceeded, EdgeError, LedgerError, PolicyError
from edgeai.monitor import CloudTimes, TimeModel
from edgeai.policy import Policy
from edgeai.run import Run
from edgeai.types import Answer, Request

if TYPE_CHECKING:
    from edgeai.ledger import Ledger


log = logging.getLogger("edgeai.record")


@dataclass(slots=True)
class QueryRecord:
    """One query's entry in the ledger and in the time models. Safe to use once, from one thread at a time."""

    request: Request
    policy: Policy
    price: Price | None
    ledger: "Ledger | None"
    device_times: TimeModel
    cloud_times: CloudTimes
    reservation: int | None = None
    worst_usd: float = 0.0

    def before_sending(self, n_bytes: int) -> None:
        """Reserve the most that the cloud can cost. Raises BudgetExceeded, with the numbers."""
        budget = self.policy.budget_usd
        if self.price is None:
            if budget:
                raise PolicyError(NO_PRICE, remedy=PRICE_REMEDY)
            return
        n_images = sum(len(message.images) for message in self.request.messages)
        worst_usd = self.worst_usd = worst_cost(self.price, n_bytes, self.request.max_tokens, images=n_images)
        if worst_usd > (limit := budget.get("query", worst_usd)):
            raise BudgetExceeded(
                f"The answer could cost ${worst_usd:.4f}, the budget for a query is ${limit:.4f}",
                remedy="Raise budget_usd['query'], or lower max_tokens",
            )
        limits = {window: usd for window, usd in budget.items() if window != "query"}
        if limits and self.ledger is not None:
            self.reservation = self.ledger.reserve(worst_usd, limits)
            self.ledger.sent(
                self.reservation
            )  # so that a crash while the cloud answers does not give it back

    def disclose(self, cloud: Cloud, body: bytes, outbound: Outbound) -> None:
        """Add a row to the disclosure record, if there is a ledger. Raises LedgerError."""
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
        self._settle(run, answer.cost_usd)
        if self.ledger is not None:
            lost = answer.source == "device" and run.disclosed_bytes > 0
            self.ledger.record(
                answer,
                task=self.request.task,
                prompt=self.request.messages,
                wasted_cost_usd=self._most_usd(run) if lost else 0.0,
            )

    def failed(self, run: Run, error: EdgeError) -> None:
        """Write the row of a query that ended with an error."""
        self._settle(run, None)
        if self.ledger is not None:
            self.ledger.record_error(
                error,
                model=run.labels.device_model,
                engine=run.labels.engine,
                endpoint=run.labels.endpoint if run.disclosed_bytes else None,
                task=self.request.task,
                disclosed_bytes=run.disclosed_bytes,
                wasted_cost_usd=self._most_usd(run) if run.disclosed_bytes else 0.0,
                prompt=self.request.messages,
            )

    def _settle(self, run: Run, cost_usd: float | None) -> None:
        """Replace what was reserved by what was spent, or by the most it can be where that is not known.

        An answer is not lost for it: what cannot be settled stays reserved, which is the careful side.
        """
        if self.reservation is None or self.ledger is None:
            return
        try:
            if not run.disclosed_bytes:
                self.ledger.release(self.reservation)
            else:
                self.ledger.settle(self.reservation, self._most_usd(run) if cost_usd is None else cost_usd)
        except LedgerError as error:
            log.warning("the cost of a query could not be settled: %s", error)

    def _most_usd(self, run: Run) -> float:
        """The most that what was sent can cost, all tries together."""
        return self.worst_usd * max(1, run.sends)

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
    if cloud.price is None:
        raise PolicyError(NO_PRICE, remedy=PRICE_REMEDY)
    if not has_ledger and set(budget) - {"query"}:
        raise PolicyError(
            "A budget per hour, day or month needs the ledger, which is switched off",
            remedy="Use ledger=True",
        )
