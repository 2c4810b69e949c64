"""The app's rules: what may leave the device, and when it should.

`Policy.route` decides before the first token, `Policy.judge` while tokens stream and at their end,
`Policy.blocked` whether leaving is possible at all. All three are pure; hard rules come first and
``privacy="local"`` is overruled by nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, get_args

from edgeai.egress import LabelRule, Redaction, parse_disclose, read_rules, stays
from edgeai.egress.redaction import values_of
from edgeai.errors import ConfigError
from edgeai.types import Escalation, Reason, Request, Signals

if TYPE_CHECKING:
    from edgeai.monitor.contract import Contract

Window = Literal["query", "hour", "day", "month"]

LAST_MOMENT_MARGIN_S = 0.05
INFINITE = float("inf")
_OPTIONAL = (Reason.LOW_CONFIDENCE, Reason.HEDGE)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What is known besides the query itself. Times are upper predictions in seconds, None when unknown.

    ``routed``: the contract sends this query away before anything is generated. ``suspended``: the contract
    does not hold, and the policy wants everything to leave then. ``dropped_turns`` are the exchanges of the
    conversation that the device is not told, because its context is full. ``escalation`` is what the device's
    profile says for a machine on battery, or as hot, as this one.
    """

    has_cloud: bool
    reachable: bool = True
    device_reads_images: bool = False
    device_s: float | None = None
    cloud_s: float = 3.0
    hedge_s: float | None = None
    routed: bool = False
    suspended: bool = False
    dropped_turns: int = 0
    escalation: Escalation = "usual"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The rules for one Edge, or for one call.

    privacy: "local" (default): no byte leaves the device. "allow": a query may go to the configured cloud,
        except when one of its messages is marked ``private``. "redact": it may, with what `edgeai.egress`
        recognises as personal or secret replaced by placeholders, which are put back in the answer; needs the
        extra "privacy".
    prefer: "device" (default), or "cloud": ask the cloud first and keep the device as the way back.
    min_score: leave when the answer's score falls below it (0 to 1, see ``Answer.score_name``). None: an
        uncalibrated score never escalates by itself.
    contract: a `Contract`, or the path of its file, as ``edgeai calibrate`` makes it. It decides which
        answers stay, and an answer that it keeps is certified. The whole answer is held until it is judged,
        unless ``hold`` says otherwise, and then nothing is certified. It replaces ``min_score``.
    on_mismatch: what to do when the contract was calibrated for something else (model, template, task,
        method, prompt head, sampling, schema): "keep" (default) the answers, uncertified and with the reason
        in the explanation, or "escalate" all queries.
    on_drift: what to do when audits have shown that the promise no longer holds: "escalate" (default) all
        queries, or "keep" to the contract's threshold, uncertified.
    audit: the share of certified answers, chosen at random, that is compared with the cloud's after the
        answer was given, as far as privacy and budget allow; 0 for none.
    deadline_s: seconds from the call in which the answer should be complete. The cloud is asked in parallel
        at the last moment at which it can still make it; the device wins if it is complete before the
        cloud's first word.
    hedge: without a deadline, ask the cloud in parallel when the device takes longer than for 95 % of its
        answers; the first complete one wins. At most one query in twenty.
    budget_usd: US dollars per "query", rolling "hour", "day" and "month". The price must be known.
    when_offline: "keep" the device's answer when the cloud cannot be reached; "queue" keeps it, too, and
        stores the question until the network is back (see `Edge.send_queued`); "error" raises.
    when_full: when a prompt is longer than the device's context: "error" (default) raises ContextOverflow;
        "shift" leaves the oldest exchanges of the conversation out, system messages stay, and the answer says
        how many (``Answer.dropped_turns``); "escalate" asks the cloud, as far as the policy allows it. An
        answer that reaches the context's end is cut off there (``finish_reason="length"``), which is a
        reason to leave whatever is set here.
    disclose: what of a conversation the cloud sees: "all", "turns:n" (the last n exchanges) or "question";
        system messages go along.
    document_chars: of a question or tool's result that is longer, the cloud sees only the passages that have
        to do with the question, up to about this many characters. None: all of it.
    labels: what may leave of messages and parts with a label: "local", "redact", "allow" or a `LabelRule`
        that also says where to. A label without a rule keeps its query on the device, and nothing overrules
        ``privacy="local"``.
    redaction: patterns and recognisers of your own, and how much may be replaced.
    """

    privacy: Literal["local", "redact", "allow"] = "local"
    prefer: Literal["device", "cloud"] = "device"
    min_score: float | None = None
    contract: "str | Path | Contract | None" = None
    on_mismatch: Literal["keep", "escalate"] = "keep"
    on_drift: Literal["keep", "escalate"] = "escalate"
    audit: float = 0.03
    deadline_s: float | None = None
    hedge: bool = False
    budget_usd: Mapping[Window, float] = field(default_factory=dict)
    when_offline: Literal["keep", "queue", "error"] = "keep"
    when_full: Literal["error", "shift", "escalate"] = "error"
    disclose: str = "all"
    document_chars: int | None = None
    labels: Mapping[str, LabelRule | Literal["local", "redact", "allow"]] = field(default_factory=dict)
    redaction: Redaction = Redaction()

    def __post_init__(self) -> None:
        _one_of("privacy", self.privacy, ("local", "redact", "allow"))
        _one_of("prefer", self.prefer, ("device", "cloud"))
        _one_of("when_offline", self.when_offline, ("keep", "queue", "error"))
        _one_of("when_full", self.when_full, ("error", "shift", "escalate"))
        _one_of("on_mismatch", self.on_mismatch, ("keep", "escalate"))
        _one_of("on_drift", self.on_drift, ("keep", "escalate"))
        parse_disclose(self.disclose)
        self._check_contract()
        if self.min_score is not None and not (_is_number(self.min_score) and 0 <= self.min_score <= 1):
            raise ConfigError(f"min_score is {self.min_score!r}, expected a number from 0 to 1")
        if self.deadline_s is not None and not (
            _is_number(self.deadline_s) and 0 < self.deadline_s < INFINITE
        ):
            raise ConfigError(f"deadline_s is {self.deadline_s!r}, expected a positive number of seconds")
        if not isinstance(self.budget_usd, Mapping):
            raise ConfigError(f"budget_usd is {self.budget_usd!r}", remedy='Give a dict, as {"day": 0.50}')
        for window, usd in self.budget_usd.items():
            _one_of("budget_usd", window, get_args(Window))
            if not (_is_number(usd) and 0 <= usd < INFINITE):
                raise ConfigError(f"budget_usd[{window!r}] is {usd!r}, expected US dollars, 0 or more")
        n_chars = self.document_chars
        if n_chars is not None and not (isinstance(n_chars, int) and _is_number(n_chars) and n_chars > 0):
            raise ConfigError(f"document_chars is {n_chars!r}, expected a whole number above zero")
        if not isinstance(self.redaction, Redaction):
            raise ConfigError(f"redaction is {self.redaction!r}", remedy="Give a Redaction(…)")
        object.__setattr__(self, "labels", MappingProxyType(read_rules(self.labels)))
        # A copy, so that no later change of the caller's dict can lift a limit.
        object.__setattr__(self, "budget_usd", MappingProxyType(dict(self.budget_usd)))

    def __reduce__(self) -> tuple[partial["Policy"], tuple[()]]:
        return partial(Policy, **values_of(self)), ()

    def _check_contract(self) -> None:
        if not (_is_number(self.audit) and 0 <= self.audit <= 1):
            raise ConfigError(f"audit is {self.audit!r}, expected a share from 0 to 1")
        if self.contract is None:
            return
        if self.min_score is not None:
            raise ConfigError("min_score and contract are both set", why="A contract has its own threshold")
        if not isinstance(self.contract, str | Path):
            from edgeai.monitor.contract import Contract  # loads numpy

            if not isinstance(self.contract, Contract):
                raise ConfigError(f"contract is {self.contract!r}", remedy="Give a path or a Contract")

    @property
    def rules(self) -> Mapping[str, LabelRule]:
        """``labels``, each as a rule."""
        return read_rules(self.labels)

    @property
    def redacts(self) -> bool:
        """Whether anything may have to be redacted, for which the extra "privacy" must be installed."""
        return self.privacy == "redact" or any(rule.privacy == "redact" for rule in self.rules.values())

    def blocked(self, request: Request, state: State, wanted: Reason | None = None) -> Reason | None:
        """Why this query must stay, or None when it may leave. ``wanted``: the reason to leave.

        Under a contract doubt is no choice of the machine's.
        """
        if self.privacy == "local" or any(stays(message, self.rules) for message in request.messages):
            return Reason.PRIVATE
        if not state.has_cloud:
            return Reason.NO_CLOUD
        if state.escalation == "keep" and wanted in _OPTIONAL and self.contract is None:
            return Reason.FRUGAL
        return None if state.reachable else Reason.OFFLINE

    def route(self, request: Request, state: State) -> Reason | None:
        """The reason to leave before anything is generated, if `blocked` does not forbid it, or None."""
        if not state.device_reads_images and any(message.images for message in request.messages):
            return Reason.UNSUPPORTED
        if self.prefer == "cloud":
            return Reason.POLICY
        if state.suspended or state.routed:
            return Reason.UNCERTIFIED if state.suspended else Reason.ROUTED
        late = self.deadline_s is not None and state.device_s is not None and state.device_s > self.deadline_s
        if late and self.deadline_s is not None and state.cloud_s <= self.deadline_s:
            return Reason.DEADLINE
        prefers = state.escalation == "prefer" and self.blocked(request, state) is None
        return Reason.POWER if prefers else None

    def judge(self, signals: Signals, state: State) -> Reason | None:
        """The reason to leave now, or None to stay. A missing score never counts as confident."""
        if signals.cut_off:
            return Reason.TOO_LONG
        if signals.keeps is False:
            return Reason.LOW_CONFIDENCE
        if self.min_score is not None:
            unsure = signals.score is None and signals.finished is not None
            if unsure or (signals.score is not None and signals.score < self.min_score):
                return Reason.LOW_CONFIDENCE
        if not self._late(signals, state):
            return None
        return Reason.HEDGE if self.deadline_s is None else Reason.DEADLINE

    def last_moment_s(self, state: State) -> float | None:
        """Seconds after the call at which the cloud must be asked to meet the deadline, or to hedge; or None.

        The last responsible moment of "The tail at scale" (Dean and Barroso 2013).
        """
        if self.deadline_s is None:
            return state.hedge_s
        return max(0.0, self.deadline_s - state.cloud_s - LAST_MOMENT_MARGIN_S)

    def _late(self, signals: Signals, state: State) -> bool:
        moment = self.last_moment_s(state)
        if moment is None or signals.finished or signals.elapsed_s < moment:
            return False
        if self.deadline_s is None:
            return True
        return signals.remaining_s is None or signals.elapsed_s + signals.remaining_s > self.deadline_s


def explain(
    wanted: Reason | None,
    kept: Reason | None,
    policy: Policy,
    signals: Signals | None,
    cause: str | None = None,
    dropped_turns: int = 0,
) -> str:
    """The decision in a sentence for people: what spoke for leaving, and what kept the query, if anything.

    Another says what the device was not told, if its answer stands.
    """
    why = _EXPLAIN_LEAVE.get(wanted, "") if wanted else ""
    if wanted is Reason.LOW_CONFIDENCE and signals:
        why = _low(policy, signals) or why
    if wanted is Reason.DEADLINE and policy.deadline_s is not None:
        why = f"the device would not finish within {policy.deadline_s:g} s"
    if kept is None:
        return _sentence(f"the cloud answered: {why}")
    stay = _EXPLAIN_STAY[kept]
    if cause:
        stay = f"{stay} ({cause.rstrip('.')})"
    said = _sentence(f"{why}, but {stay}" if why else stay)
    if not dropped_turns:
        return said
    exchanges = "exchange was" if dropped_turns == 1 else f"{dropped_turns} exchanges were"
    return f"{said} The conversation is longer than the device's context: its oldest {exchanges} left out."


def _low(policy: Policy, signals: Signals) -> str | None:
    needed = signals.threshold if policy.min_score is None else policy.min_score
    if policy.min_score is None and not signals.finished:
        return f"the first {signals.n_tokens} tokens left little hope for an answer that could stay"
    if signals.score is None or needed is None or signals.score >= needed:
        return None
    return f"the device's answer scored {signals.score:.2f}, below {needed:.2f}"


_EXPLAIN_LEAVE = {
    Reason.LOW_CONFIDENCE: "the device gave no answer it could be sure of",
    Reason.TOO_LONG: "the device's answer was cut off before its end",
    Reason.ENGINE_ERROR: "the engine on the device failed",
    Reason.CONTEXT_OVERFLOW: "the prompt is longer than the device's context",
    Reason.UNSUPPORTED: "the model on the device cannot read this kind of input",
    Reason.POLICY: "the policy prefers the cloud",
    Reason.HEDGE: "the device took longer than it nearly always does",
    Reason.ROUTED: "the contract expects the cloud to do better on this query",
    Reason.UNCERTIFIED: "the contract does not hold at present, and the policy does without it",
    Reason.POWER: "the device is on battery or hot, and its profile prefers the cloud then",
}
_EXPLAIN_STAY = {
    Reason.CONFIDENT: "the device answered, and its score is above the policy's threshold",
    Reason.UNJUDGED: "the device answered; the policy sets no threshold to judge it by",
    Reason.FINAL: "the text was already final",
    Reason.PRIVATE: "the policy keeps this query on the device",
    Reason.NO_CLOUD: "no cloud is configured",
    Reason.OFFLINE: "the cloud could not be reached lately, and was not asked again",
    Reason.BUDGET: "the budget does not allow the cloud",
    Reason.FRUGAL: "the device is on battery or hot, and its profile keeps queries here then",
    Reason.CLOUD_FAILED: "the cloud failed, so the device's answer stands",
    Reason.CANCELLED: "the caller stopped it",
}


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise ConfigError(f"{name} is {value!r}, expected one of {', '.join(map(repr, allowed))}")
