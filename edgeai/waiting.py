"""The questions of one Edge that wait for the network: put aside when it is away, sent when it is back."""

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgeai.cloud import Cloud
from edgeai.errors import ConfigError, EdgeError
from edgeai.outbox import Outbox
from edgeai.policy import Policy
from edgeai.resend import QueuedAnswer, send
from edgeai.run import Run
from edgeai.types import Answer

if TYPE_CHECKING:
    from edgeai.ledger import Ledger

__all__ = ["Waiting"]

LOOK_S = 10.0
"""How often a thread of its own looks whether the network may be back, while something waits."""

_logger = logging.getLogger("edgeai.waiting")


class Waiting:
    """Feeds an `Outbox` and empties it. Safe from any thread.

    Answers go to the callbacks in ``listeners``; without one they stay in the outbox, where `edgeai queue`
    finds them.
    """

    def __init__(self, outbox: Outbox, cloud: Cloud, policy: Policy, ledger: "Ledger | None") -> None:
        self.outbox, self.listeners = outbox, list[Callable[[QueuedAnswer], None]]()
        self._cloud, self._policy, self._ledger = cloud, policy, ledger
        self._sending = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        if outbox.counts()["waiting"]:
            self._watch()

    def ended(self, run: Run, answer: Answer | None) -> None:
        """Put the question aside if it should have left and nobody could be reached; None: it has no answer.

        When bytes of it had left it may have been answered and billed, so it is not sent by itself.
        """
        stopped = answer is not None and (answer.source == "cloud" or answer.finish_reason == "cancelled")
        if run.policy.when_offline != "queue" or stopped or not run.unreached:
            return
        fate = f"It left, and no answer came: {run.cloud.error}" if run.sent.n_bytes else None
        try:
            self.outbox.add(run.request, unknown=fate)
        except ConfigError as error:
            _logger.warning("a question was not queued: %s", error)
            return
        self._watch()

    def send(self) -> int:
        """Send what waits, now; how many were answered. One thread does it at a time."""
        with self._sending:
            return send(
                self.outbox,
                self._cloud,
                self._policy,
                self._ledger,
                self._deliver if self.listeners else None,
            )

    def close(self) -> None:
        """Begin nothing new, and close the file when what is under way has ended."""
        self._closed.set()
        with self._sending:
            self.outbox.close()

    def _deliver(self, answer: QueuedAnswer) -> bool:
        """Whether all listeners took it; otherwise it stays in the outbox, where it can be looked at."""
        took = [self._told(listener, answer) for listener in self.listeners]
        return all(took)

    def _told(self, listener: Callable[[QueuedAnswer], None], answer: QueuedAnswer) -> bool:
        try:
            listener(answer)
        except Exception as error:  # it is the app's code, perhaps in a thread of ours
            _logger.error("A listener for late answers failed", exc_info=error)
            return False
        return True

    def _watch(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._look, name="edgeai-queue", daemon=True)
            self._thread.start()

    def _look(self) -> None:
        while not self._closed.wait(LOOK_S):
            try:
                with self._sending:
                    if self._closed.is_set() or not self.outbox.counts()["waiting"]:
                        return
                self.send()
            except EdgeError as error:
                _logger.warning("the queue could not be sent: %s", error)
