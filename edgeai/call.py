"""One query in flight: the moving parts between a run and its two sides. It decides nothing.

Whatever happens on a side, in any thread, wakes the driver, which lets the call take all of it in one
`step`: feed the run, carry out its actions, hand out its events. The sync driver (`edgeai.drive`) waits with
a thread's event, the async one (`edgeai.async_edge`) with the event loop's; that is all that differs.
"""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, cast

from edgeai.arriving import arrived
from edgeai.cloud import Cloud, CloudEnd, Piece
from edgeai.cloud.tiers import tiers_of
from edgeai.engines.generation import Generation
from edgeai.errors import CloudError, CloudProtocol, EdgeError
from edgeai.run import Run
from edgeai.steps import Action, Cancel, Fail, Happening, Refused, Start, Stop, Tick
from edgeai.types import Answer, Delta, Done, Event, Replaced

if TYPE_CHECKING:
    from concurrent.futures import Future

    from edgeai.devices.energy import Meter, Share
    from edgeai.egress import Outbound

# A lock cannot be interrupted by Ctrl-C on Windows, so there the driver looks up from time to time.
_LONGEST_WAIT_S = 0.1 if sys.platform == "win32" else None


class Record(Protocol):
    """Where a call reports to: money before it is sent, and every end."""

    def before_sending(self, n_bytes: int, tier: int) -> None:
        """Reserve what the cloud may cost; raises PolicyError when it may not be spent.

        ``tier`` says which of several clouds it is, from 0.
        """
        ...

    def disclose(self, cloud: Cloud, body: bytes, outbound: "Outbound") -> None:
        """Write down what is about to leave; raises LedgerError when it cannot, and nothing leaves."""
        ...

    def answered(self, run: Run, answer: Answer) -> None:
        """The query has ended with this answer."""
        ...

    def failed(self, run: Run, error: EdgeError) -> None:
        """The query has ended with this error."""
        ...


class Call:
    """One query in flight. `begin` and `step` are called by its reader, `stop` and `close` by anybody."""

    def __init__(
        self,
        run: Run,
        *,
        open_device: Callable[[], Generation],
        cloud: Cloud | None,
        release: "Callable[[Cloud], Outbound]",
        record: Record,
        meter: "Meter | None" = None,
    ) -> None:
        self.run = self._run = run
        self._record = record
        self._meter, self._share = meter, cast("Share | None", None)
        self._open_device, self._clouds, self._release = open_device, tiers_of(cloud), release
        self._generation: Generation | None = None
        self._sending: Future[None] | None = None
        self._pieces: deque[Piece | BaseException] = deque()
        self._wake: Callable[[], None] = lambda: None
        self._lock = threading.RLock()  # re-entrant: a stream may be thrown away inside any call
        self._begun = self._stopped = self._closed = False
        self._failure: EdgeError | None = None

    @property
    def done(self) -> bool:
        """Whether the query has ended; there are no further events."""
        return self._run.done or self._closed

    def begin(self, wake: Callable[[], None]) -> list[Event]:
        """Start the query; ``wake`` is called, from any thread, when `step` has something to do."""
        with self._lock:
            if self._closed:
                return []
            self._wake, self._begun = wake, True
            self._share = None if self._meter is None else self._meter.begin()
            return self._act(self._run.start(time.monotonic()))

    def step(self) -> list[Event]:
        """Take in all that has happened."""
        events: list[Event] = []
        with self._lock:
            for happening in self._happened() or [Tick()]:
                events += self._act(self._run.feed(happening, time.monotonic()))
        return events

    def take_failure(self) -> EdgeError | None:
        """The error that ended the query, once; it is raised after the events before it were handed out."""
        failure, self._failure = self._failure, None
        return failure

    def wait_s(self) -> float | None:
        """The longest time the driver may sleep, in seconds; None for until it is woken."""
        wait_s = self._run.wait_s(time.monotonic())
        return wait_s if _LONGEST_WAIT_S is None else min(wait_s or _LONGEST_WAIT_S, _LONGEST_WAIT_S)

    def stop(self) -> None:
        """End the query with what was shown so far, from any thread."""
        self._stopped = True
        self._wake()

    def close(self, failure: EdgeError | None = None) -> None:
        """End both sides at once; what was shown goes on record as cancelled. The reader gets ``failure``."""
        with self._lock:
            if self._closed:
                return
            if self._begun and not self._run.done:
                self._act(self._run.feed(Stop(), time.monotonic()))
                self._failure = failure
            self._closed = True
        self._wake()

    def _happened(self) -> list[Happening]:
        happened: list[Happening] = [Stop()] if self._stopped else []
        if self._generation is not None and self._run.listening:
            happened += self._generation.take()
        while self._pieces:
            piece = self._pieces.popleft()
            if isinstance(piece, BaseException) and not isinstance(piece, EdgeError):
                self.close()
                raise piece
            happened.append(piece)
        return happened

    def _act(self, actions: list[Action]) -> list[Event]:
        events: list[Event] = []
        for action in actions:
            match action:
                case Start("device"):
                    events += self._start_device()
                case Start("cloud"):
                    events += self._start_cloud()
                case Cancel(side):
                    self._cancel(side)
                case Fail(error):
                    self._energy()
                    self._record.failed(self._run, error)
                    self._failure = error
                case Delta() | Replaced():
                    events.append(action)
                case Done(answer):
                    answer = replace(answer, **self._energy())
                    self._record.answered(self._run, answer)
                    events.append(Done(answer))
        return events

    def _energy(self) -> dict[str, Any]:
        """What the query has used, as fields of its answer."""
        used = None if self._share is None else self._share.end()
        return {} if used is None else {"energy_j": used.joules, "energy_source": used.source}

    def _start_device(self) -> list[Event]:
        if self._generation is not None:  # it was paused; what it made before is waiting
            self._generation.resume()
            self._wake()
            return []
        try:
            self._generation = self._open_device()
        except EdgeError as error:
            return self._act(self._run.feed(error, time.monotonic()))
        self._generation.on_ready(self._wake)
        return []

    def _start_cloud(self) -> list[Event]:
        from edgeai import net  # loads httpx, which a query that stays never needs

        cloud = self._clouds[self._run.sent.tier]
        try:
            outbound = self._release(cloud)
            body = cloud.encode(outbound.released)
            self._record.before_sending(len(body), self._run.sent.tier)
            self._record.disclose(cloud, body, outbound)
        except EdgeError as error:
            return self._act(self._run.feed(Refused(error), time.monotonic()))
        if self._generation is not None and not self._run.listening:
            self._generation.pause()
        self._run.sent.begin(len(body))
        self._sending = net.submit(self._receive(cloud, outbound))
        self._sending.add_done_callback(self._on_sent)
        return []

    async def _receive(self, cloud: Cloud, outbound: "Outbound") -> None:
        restorer = outbound.restorer()
        try:
            async for piece in cloud.stream(outbound.released):
                self._pieces.extend(arrived(piece, restorer))
                self._wake()
                if isinstance(piece, CloudEnd):
                    return
            raise CloudProtocol("The cloud's answer broke off without an end")
        except CloudError as error:
            self._pieces.append(error)
            self._wake()

    def _on_sent(self, sending: "Future[None]") -> None:
        """A bug in a codec must reach the caller, not leave it waiting."""
        if not sending.cancelled() and (bug := sending.exception()) is not None:
            self._pieces.append(bug)
            self._wake()

    def _cancel(self, side: str) -> None:
        if side == "device" and self._generation is not None:
            self._generation.cancel()
        elif side == "cloud" and self._sending is not None:
            self._sending.cancel()
