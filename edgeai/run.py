"""One query as a state machine without I/O.

A `Run` is fed what happened (a token, an end, an error, the clock) and says what to do: start or cancel a
side, show an event, raise an error. It knows no thread, socket, model or clock, so that the whole of
escalation is tested in microseconds.

What it keeps to:
- `Replaced` comes only with the new source's first text in hand: a dead network withdraws nothing.
- The device's side is paused, not closed, until the cloud has finished; a cloud that fails midway is
  replaced by the device's answer. At most device → cloud → device.
- With ``hold=n`` the first n pieces are kept back; what is shown after that is final: no `Replaced`, no
  judging any more, and an error is raised. Without it (None or 0) shown text may be withdrawn.
- Several clouds are climbed: the next is asked when one fails, refuses or is not allowed, before any of
  its text was shown.
- Exactly one end: a `Done`, or a `Fail`.
"""

from collections.abc import Callable

from edgeai.cloud import CloudEnd, CloudText
from edgeai.engines.generation import Finished
from edgeai.errors import (
    BothFailed,
    BudgetExceeded,
    Cancelled,
    CloudError,
    CloudProtocol,
    CloudTimeout,
    CloudUnavailable,
    EdgeError,
    EngineClosed,
    ModelUnsupported,
    PolicyError,
    PrivacyViolation,
)
from edgeai.monitor import Monitor
from edgeai.outcome import Labels, Sent, Side, Track, device_usage, is_reason, leaves_for, timing
from edgeai.policy import Policy, State, explain
from edgeai.shown import Shown
from edgeai.standing import Standing
from edgeai.steps import Action, Cancel, Fail, Happening, Refused, Start, Stop, Tick
from edgeai.types import (
    Answer,
    Done,
    FinishReason,
    Reason,
    Request,
    Signals,
    Source,
    Token,
    ToolCall,
    Usage,
)

TICK_S = 0.02
_KEPT_BY: dict[type[EdgeError], Reason] = {
    BudgetExceeded: Reason.BUDGET,
    PrivacyViolation: Reason.PRIVATE,
}


ReadCalls = Callable[[str], tuple[ToolCall, ...]]
Accept = Callable[[str], str]


class Run:
    """One query. Call `start`, then `feed` with everything that happens, until `done`.

    ``accept`` turns the cloud's whole text into the answer's or raises CloudProtocol (labels, JSON);
    ``read_calls`` finds tool calls in the device's text. With ``whole`` nothing is shown before the end.
    ``standing`` is what the policy's contract is worth for this query.
    """

    def __init__(
        self,
        request: Request,
        policy: Policy,
        monitor: Monitor,
        state: State,
        labels: Labels,
        *,
        whole: bool = False,
        accept: Accept = lambda text: text,
        read_calls: ReadCalls = lambda text: (),
        standing: Standing | None = None,
    ) -> None:
        self.request, self.policy, self.monitor, self.state = request, policy, monitor, state
        self.labels, self._accept, self._read_calls = labels, accept, read_calls
        self.standing = standing
        self.device, self.cloud = Track(), Track()
        self.done = False
        self.sent = Sent()
        self._speaker: Source = "device"
        self._shown = Shown(hold=request.hold or 0, whole=whole)
        self._wanted: Reason | None = None
        self._kept: Reason | None = None
        self._cause: str | None = None
        self._signals: Signals | None = None
        self.finished: Finished | None = None
        self._now = self._t0 = 0.0
        self._asked: float | None = None
        self._out: list[Action] = []

    def start(self, now: float) -> list[Action]:
        """Begin; ``now`` is any clock in seconds, the same in every call."""
        self._now = self._t0 = now
        reason = self.policy.route(self.request, self.state)
        if reason is Reason.UNSUPPORTED:
            self._device_failed(
                ModelUnsupported(
                    "The model on this device reads no images",
                    remedy="Leave the images out, or configure a cloud and a policy that allows it",
                )
            )
        elif reason is None or not self._leave(reason):
            self._start("device")
        return self._actions()

    def feed(self, happening: Happening, now: float) -> list[Action]:
        """Take in what happened and say what to do. After the end there is nothing more to do."""
        if self.done:
            return []
        self._now = now
        match happening:
            case Token():
                self._on_token(happening)
            case Finished():
                self._on_finished(happening)
            case CloudText():
                self._on_cloud_text(happening)
            case CloudEnd():
                self._on_cloud_end(happening)
            case CloudError():
                self._cloud_failed(happening)
            case Refused(error):
                self._cloud_failed(error)
            case Tick():
                self._on_tick()
            case Stop():
                self._on_stop()
            case _:
                self._device_failed(happening)
        return self._actions()

    @property
    def hedged(self) -> bool:
        """Whether the cloud was asked because the device was slow, though no deadline pressed."""
        return self._wanted is Reason.HEDGE

    @property
    def unreached(self) -> bool:
        """Whether the cloud should have answered, and nobody was there to do so."""
        lost = isinstance(self.cloud.error, CloudUnavailable | CloudTimeout)
        return self._kept is Reason.OFFLINE or (self._kept is Reason.CLOUD_FAILED and lost)

    @property
    def listening(self) -> bool:
        """Whether the device's tokens are wanted now; while not, its side is paused."""
        return self._speaker == "device" and (self.cloud.side is not Side.RUNNING or self._racing)

    def wait_s(self, now: float) -> float | None:
        """Seconds until the next Tick is needed, None for never."""
        moment = self.policy.last_moment_s(self.state)
        if moment is None or not self._may_judge or self.device.side is not Side.RUNNING:
            return None
        return max(TICK_S, self._t0 + moment - now)

    @property
    def cloud_s(self) -> float | None:
        """Seconds from asking the cloud until now, None when it was not asked."""
        return None if self._asked is None else self._now - self._asked

    def _on_token(self, token: Token) -> None:
        self.device.text.append(token.text)
        if self.device.first_s is None:
            self.device.first_s = self._now
            self.monitor.first_s = self._now - self._t0
        self._signals = self.monitor.observe(token)
        if self._speaker != "device":
            return
        if self._may_judge and (reason := self.policy.judge(self._signals, self.state)):
            self._leave(reason)
        if self.listening:
            self._flush("device")

    def _on_finished(self, finished: Finished) -> None:
        self.device.side = Side.ENDED
        self.finished = finished
        broken = self.request.schema is not None and finished.reason == "length"
        cut_off = finished.context_full or broken
        self._signals = self.monitor.finish(finished.reason, cut_off=cut_off, labels=finished.labels)
        if self._speaker != "device":
            return
        unsure = self.policy.judge(self._signals, self.state)
        if self.cloud.side is Side.RUNNING:
            if self._racing and not unsure:
                self._wanted = None
                self._finish_device()
            else:
                self._wanted = unsure or self._wanted
            return
        if not (self._may_judge and unsure and self._leave(unsure)):
            self._finish_device()

    def _device_failed(self, error: EdgeError) -> None:
        self.device.side, self.device.error = Side.FAILED, error
        reason = leaves_for(error)
        if isinstance(error, Cancelled | EngineClosed):  # closed, and with it everything
            self._fail(error)
        elif self.cloud.side is Side.RUNNING:
            self._wanted = reason
        elif self.cloud.side is Side.FAILED and self.cloud.error is not None:
            self._fail(BothFailed("The device failed and the cloud failed", [error, self.cloud.error]))
        elif self._shown.final or not is_reason(error, self.policy) or not self._leave(reason):
            self._fail(error)

    def _finish_device(self) -> None:
        self._flush("device", ended=True)
        finished = self.finished
        text = "".join(self.device.text)
        calls = self._read_calls(text) if self.request.tools else ()
        self._end(
            "device",
            finish_reason="tool_calls" if calls else finished.reason if finished else None,
            tool_calls=calls,
            usage=device_usage(self.monitor, self.finished),
        )

    def _on_tick(self) -> None:
        if self.device.side is Side.RUNNING and self._speaker == "device" and self._may_judge:
            known = self.monitor.signals()
            waited_s = max(0.0, self._now - self._t0 - known.elapsed_s)
            if reason := self.policy.judge(self.monitor.signals(waited_s=waited_s), self.state):
                self._leave(reason)

    def _on_cloud_text(self, piece: CloudText) -> None:
        if self._shown.final and self._shown.source == "device":  # it won the race with its first final text
            self.cloud.side, self._kept = Side.FAILED, Reason.FINAL
            self._out.append(Cancel("cloud"))
            return
        self.cloud.first_s = self.cloud.first_s or self._now
        self._speaker = "cloud"
        self.cloud.text.append(piece.text)
        self._flush("cloud")

    def _on_cloud_end(self, end: CloudEnd) -> None:
        self.sent.count(end.sends)
        text = "".join(self.cloud.text)
        try:
            if not text and not end.tool_calls:
                raise CloudProtocol("The cloud's answer is empty")
            accepted = text if end.tool_calls else self._accept(text)
        except CloudProtocol as error:
            error.sends = end.sends
            self._cloud_failed(error)
            return
        if accepted != text:
            self.cloud.text = [accepted]
        self.cloud.side, self._speaker = Side.ENDED, "cloud"
        self._flush("cloud", ended=True)
        self._end("cloud", finish_reason=end.finish_reason, tool_calls=end.tool_calls, usage=end.usage)

    def _cloud_failed(self, error: EdgeError) -> None:
        self.cloud.side, self.cloud.error = Side.FAILED, error
        if isinstance(error, CloudError):
            self.sent.count(error.sends)
        if isinstance(error, CloudError | PolicyError) and self._climb():
            return
        self._cause = str(error)
        self._kept = _KEPT_BY.get(type(error), Reason.CLOUD_FAILED)
        offline = isinstance(error, CloudUnavailable | CloudTimeout)
        if (self._shown.final and self._shown.source == "cloud") or (
            offline and self.policy.when_offline == "error"
        ):
            self._fail(error)
        elif self.device.error is not None:
            self._fail(BothFailed("The device failed and the cloud failed", [self.device.error, error]))
        else:
            self._back_to_device()

    def _climb(self) -> bool:
        """Ask the next cloud, if there is one and nothing of this one was shown."""
        if not self.labels.above or self._shown.source == "cloud":
            return False
        self.labels, self.cloud, self._speaker = self.labels.climbed(), Track(), "device"
        self.sent.climb()
        self._start("cloud")
        return True

    def _back_to_device(self) -> None:
        self._speaker = "device"
        if self.device.side is Side.ENDED:
            self._finish_device()
        elif self.device.side is Side.IDLE:
            self._start("device")
        else:
            self._flush("device")
            self._out.append(Start("device"))

    @property
    def _may_judge(self) -> bool:
        return not self._shown.final and self._wanted is None

    @property
    def _racing(self) -> bool:
        return self._wanted in (Reason.DEADLINE, Reason.HEDGE) and self.cloud.side is Side.RUNNING

    def _leave(self, reason: Reason) -> bool:
        """Start the cloud, or note why that cannot be."""
        self._wanted = reason
        self._kept = self.policy.blocked(self.request, self.state, reason)
        if self._kept is None:
            self._start("cloud")
        elif self._kept is Reason.OFFLINE and self.policy.when_offline == "error":
            self._fail(
                CloudUnavailable("The cloud could not be reached lately", remedy="Try again in a while")
            )
        return self._kept is None or self.done

    def _start(self, side: Source) -> None:
        track = self.device if side == "device" else self.cloud
        track.side = Side.RUNNING
        if side == "cloud":
            self._asked = self._now
        self._out.append(Start(side))

    def _flush(self, source: Source, *, ended: bool = False) -> None:
        """Show what this source has said and is not shown yet, as far as it may be shown."""
        track, reason = (self.device, self._kept) if source == "device" else (self.cloud, self._wanted)
        self._out += self._shown.show(source, track.text, reason or Reason.POLICY, ended=ended)

    def _on_stop(self) -> None:
        source = self._shown.source or self._speaker
        usage = device_usage(self.monitor, self.finished) if source == "device" else Usage()
        self._end(source, finish_reason="cancelled", usage=usage)

    def _fail(self, error: EdgeError) -> None:
        self._close_sides()
        self._out.append(Fail(error))
        self.done = True

    def _end(
        self,
        source: Source,
        *,
        finish_reason: FinishReason | None,
        usage: Usage,
        tool_calls: tuple[ToolCall, ...] = (),
    ) -> None:
        self._close_sides()
        self._out.append(Done(self._answer(source, finish_reason, usage, tool_calls)))
        self.done = True

    def _answer(
        self, source: Source, finish_reason: FinishReason | None, usage: Usage, calls: tuple[ToolCall, ...]
    ) -> Answer:
        on_device = source == "device"
        track = self.device if on_device else self.cloud
        cancelled = finish_reason == "cancelled"
        kept = Reason.CANCELLED if cancelled else self._stay_reason() if on_device else None
        text = track.text[: self._shown.n_pieces] if cancelled else track.text
        wanted = None if cancelled else self._wanted
        dropped = self.state.dropped_turns if on_device else 0
        answer = Answer(
            text="".join(text),
            source=source,
            model=self.labels.device_model if on_device else self.labels.cloud_model,
            engine=self.labels.engine if on_device else None,
            endpoint=None if on_device else self.labels.endpoint,
            reason=kept or self._wanted or Reason.POLICY,
            explanation=explain(wanted, kept, self.policy, self._signals, self._cause, dropped),
            score=self._signals.score if self._signals else None,
            score_name=self._signals.score_name if self._signals else None,
            usage=usage,
            timing=timing(track, self.monitor, self.finished if on_device else None, self._t0, self._now),
            cost_usd=self.labels.cost(usage, self.sent, on_device=on_device),
            price_as_of=None if on_device or self.labels.price is None else self.labels.price.as_of,
            finish_reason=finish_reason,
            disclosed_bytes=self.sent.n_bytes,
            tool_calls=calls,
            dropped_turns=dropped,
        )
        answer = self.labels.computed(answer, self.finished) if on_device else answer
        return answer if self.standing is None else self.standing.stamp(answer, self._signals)

    def _stay_reason(self) -> Reason:
        if self._kept:
            return self._kept
        if self.policy.min_score is None and (self._signals is None or self._signals.keeps is None):
            return Reason.UNJUDGED
        return Reason.FINAL if self._shown.final else Reason.CONFIDENT

    def _close_sides(self) -> None:
        for side, track in (("device", self.device), ("cloud", self.cloud)):
            if track.side is Side.RUNNING:
                self._out.append(Cancel("device" if side == "device" else "cloud"))

    def _actions(self) -> list[Action]:
        actions, self._out = self._out, []
        return actions
