"""Audits: some certified answers, chosen at random, are compared with the cloud's after they were given.

They run in threads of their own and never delay an answer. Money is reserved and privacy checked as for any
query that leaves.
"""

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeai.arriving import collected
from edgeai.cloud import Cloud, CloudEnd
from edgeai.errors import CloudError, EdgeError, LedgerError
from edgeai.gate import outbound
from edgeai.record import QueryRecord
from edgeai.scorers import SCORERS, usual_scorer
from edgeai.standing import Contracts, Standing
from edgeai.types import Answer, Usage

if TYPE_CHECKING:
    from concurrent.futures import Future

    from edgeai.egress import Outbound

__all__ = ["Audit", "Audits"]

MOST_AT_ONCE = 4
FULL = 1.0
"""What the scorer must give two answers that agree."""

_logger = logging.getLogger("edgeai.audit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """One certified answer to be compared. ``accept`` reads the cloud's text as for an answer."""

    answer: Answer
    standing: Standing
    record: QueryRecord
    cloud: Cloud
    accept: Callable[[str], str]


class Audits:
    """The audits of one Edge. ``chance`` gives numbers from 0 to 1; safe from any thread."""

    def __init__(self, contracts: Contracts, chance: Callable[[], float] = random.random) -> None:
        self._contracts, self._chance = contracts, chance
        self._running: dict[threading.Thread, Future[tuple[str, CloudEnd]] | None] = {}
        self._lock = threading.Lock()
        self._closed = False

    def draw(self, share: float) -> bool:
        """Whether this answer is one of the ``share`` that is audited."""
        return self._chance() < share

    def start(self, audit: Audit) -> None:
        """Begin in the background. While four are under way, or after `close`, nothing is begun."""
        thread = threading.Thread(target=self._run, args=(audit,), name="edgeai-audit", daemon=True)
        with self._lock:
            if self._closed or len(self._running) >= MOST_AT_ONCE:
                return
            self._running[thread] = None
        try:
            thread.start()
        except RuntimeError as error:  # no more threads, or the interpreter ends: the answer matters more
            _logger.warning("an audit could not begin: %s", error)
            with self._lock:
                del self._running[thread]

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until the audits that are under way have ended, each for ``timeout_s`` at most.

        One that calls this itself, as a listener that closes the Edge does, is not waited for.
        """
        with self._lock:
            threads = [thread for thread in self._running if thread is not threading.current_thread()]
        for thread in threads:
            thread.join(timeout_s)

    def close(self) -> None:
        """End what is under way."""
        with self._lock:
            self._closed = True
            sendings = [sending for sending in self._running.values() if sending is not None]
        for sending in sendings:
            sending.cancel()
        self.wait(1.0)

    def _run(self, audit: Audit) -> None:
        try:
            self._compare(audit)
        except LedgerError as error:
            _logger.warning("an audit could not be recorded: %s", error)
        finally:
            with self._lock:
                del self._running[threading.current_thread()]

    def _compare(self, audit: Audit) -> None:
        record, price, contract = audit.record, audit.cloud.price, audit.standing.id
        sent, sends, agrees, usage, failure = 0, 1, None, Usage(), None
        try:
            request, policy = record.request, record.policy
            leaving = outbound(request, policy, audit.cloud)
            body = audit.cloud.encode(leaving.released)
            record.before_sending(len(body))
            record.disclose(audit.cloud, body, leaving)
            sent = len(body)
            text, usage = self._ask(audit.cloud, leaving)
            agrees = _agree(audit, audit.accept(text))
        except EdgeError as error:
            failure = error
            sends = error.sends if isinstance(error, CloudError) else 1
        cost_usd = price.cost(usage) if price is not None else None
        record.settle([sends if sent else 0], cost_usd)
        if record.ledger is not None:
            record.ledger.history.record_audit(
                contract,
                agrees=agrees,
                error=None if failure is None else type(failure).__name__,
                cost_usd=cost_usd if sent else 0.0,
                disclosed_bytes=sent * sends,
            )
        if agrees is not None:
            self._contracts.audited(contract, agrees=agrees)

    def _ask(self, cloud: Cloud, leaving: "Outbound") -> tuple[str, Usage]:
        from concurrent.futures import CancelledError

        from edgeai import net
        from edgeai.errors import Cancelled

        with self._lock:
            if self._closed:
                raise Cancelled("The Edge was closed")
            sending = self._running[threading.current_thread()] = net.submit(collected(cloud, leaving))
        try:
            text, end = sending.result()
        except CancelledError:
            raise Cancelled("The Edge was closed") from None
        return text, end.usage


def _agree(audit: Audit, cloud_text: str) -> bool:
    binding = audit.standing.contract.binding
    scorer = SCORERS[binding.scorer or usual_scorer(binding.method)]
    return scorer(audit.answer.text, cloud_text) >= FULL
