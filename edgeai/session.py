"""What all queries of one Edge share, and how each of them is put together."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from edgeai.binding import Method, binding
from edgeai.call import Call
from edgeai.choose import STRENGTH, Classifier, Priors, with_choices
from edgeai.cloud import Cloud, tries_of
from edgeai.cloud.tiers import tiers_of
from edgeai.egress import read_label
from edgeai.engines import Engine, Generation
from edgeai.engines.tools import parse_tool_calls
from edgeai.errors import Cancelled, CloudProtocol, ConfigError, EdgeError, EngineClosed, EngineError
from edgeai.gate import check_redaction, outbound
from edgeai.hedge import EVERY, QUANTILE, Hedges
from edgeai.monitor import CloudTimes, Monitor, TimeModel, Watch
from edgeai.options import check_priority, read_policy, read_request, schema_parser
from edgeai.outcome import labels_of
from edgeai.policy import Policy, State
from edgeai.record import QueryRecord, check_budget
from edgeai.run import Accept, Run
from edgeai.shift import shifted
from edgeai.standing import Contracts, Standing
from edgeai.types import FIELDS, Answer, CallOptions, CommonOptions, JsonSchema, Priority, Prompt, Request

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgeai.audit import Audits
    from edgeai.devices.energy import Meter
    from edgeai.ledger import Ledger
    from edgeai.types import Escalation
    from edgeai.waiting import Waiting

M = TypeVar("M")
CHOICE_OPTIONS = {"task", "policy", "max_tokens", "adapter", "priority"}
PROFILE_WORDS = (8, 32, 96)
PROFILE_TOKENS = 8
PROFILE_LIMIT_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What would be sent, and where: ``body`` byte for byte, beside which only HTTP headers go.

    ``labels`` are those of the messages in it, ``redactions`` counts the placeholders in it by kind.
    """

    endpoint: str
    model: str
    body: bytes
    labels: tuple[str, ...]
    redactions: Mapping[str, int]

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A loaded engine, perhaps a cloud, the policy between them, and what is learned and recorded."""

    engine: Engine
    cloud: Cloud | None
    policy: Policy
    ledger: "Ledger | None"
    device_times: TimeModel = field(default_factory=TimeModel)
    cloud_times: CloudTimes = field(default_factory=CloudTimes)
    weights: str = ""
    """The hash of the model's files (`edgeai.binding`)."""
    watching: bool = False
    """Whether every answer is observed in full, as a calibration needs it (`edgeai.observe`)."""
    priors: Priors = field(default_factory=Priors)
    contracts: Contracts = field(default_factory=Contracts)
    waiting: "Waiting | None" = None
    meter: "Meter | None" = None
    escalation: "Callable[[], Escalation]" = lambda: "usual"
    hedges: Hedges = field(default_factory=Hedges)
    audits: "Audits" = field(init=False)
    calls: "WeakSet[Call]" = field(default_factory=WeakSet)
    closed: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        from edgeai.audit import Audits  # not needed before there is a session

        object.__setattr__(self, "audits", Audits(self.contracts))

    def question(self, prompt: Prompt, options: CallOptions) -> Call:
        """A query for text, or for JSON that fits a schema."""
        request = read_request(prompt, **options)
        schema = options.get("schema")
        accept = fits(schema_parser(schema)) if schema is not None else lambda text: text
        return self.call(request, read_policy(self.policy, options), accept=accept)

    def call(
        self,
        request: Request,
        policy: Policy,
        *,
        method: Method = "ask",
        standing: Standing | None = None,
        open_device: Callable[[], Generation] | None = None,
        whole: bool = False,
        accept: Accept = lambda text: text,
    ) -> Call:
        """The moving parts of one query. ``open_device`` replaces the engine's ordinary stream."""
        if self.closed.is_set():
            raise EngineClosed("The Edge is closed", remedy="Open it again")
        if policy is not self.policy:
            check_budget(policy, self.cloud, has_ledger=self.ledger is not None)
            check_redaction(policy)
        spoken, n_dropped = request, 0
        if policy.when_full == "shift" and open_device is None:
            spoken, n_dropped = shifted(self.engine, request)
        whole = whole or (policy.contract is not None and request.hold is None)
        standing = standing or self.standing(spoken, policy, method, whole=whole)
        guard = standing.guard() if standing else None
        watch = self._watch(request) if self.watching or guard else None
        request = replace(request, hidden=self.watching or (guard is not None and guard.needs_hidden))
        monitor = Monitor(
            self.device_times if policy.deadline_s or policy.hedge else None,
            max_tokens=request.max_tokens,
            labels=bool(request.choices),
            watch=watch,
            guard=guard,
        )
        state = replace(
            self._state(spoken, policy, monitor),
            dropped_turns=n_dropped,
            routed=guard is not None and watch is not None and guard.routes(watch.before()),
            suspended=standing is not None and _is_suspended(standing, policy),
        )
        labels = labels_of(self.engine.info, self.cloud, request.adapter)
        run = Run(
            request,
            policy,
            monitor,
            state,
            labels,
            whole=whole,
            accept=accept,
            read_calls=lambda text: parse_tool_calls(text, request.tools),
            standing=standing,
        )
        record = QueryRecord(
            request=request,
            policy=policy,
            prices=tuple(one.price for one in tiers_of(self.cloud)),
            tries=tuple(map(tries_of, tiers_of(self.cloud))),
            ledger=self.ledger,
            device_times=self.device_times,
            cloud_times=self.cloud_times,
            contracts=self.contracts,
            then=partial(self._ended, accept),
        )
        call = Call(
            run,
            open_device=open_device or (lambda: self.engine.stream(replace(spoken, hidden=request.hidden))),
            cloud=self.cloud,
            release=lambda cloud: outbound(request, policy, cloud),
            record=record,
            meter=self.meter,
        )
        self.calls.add(call)
        return call

    def standing(self, request: Request, policy: Policy, method: Method, *, whole: bool) -> Standing | None:
        """What the policy's contract is worth for this request, None without one. Raises ContractInvalid."""
        cloud = None if self.cloud is None else self.cloud.model
        return self.contracts.standing(
            policy,
            lambda: binding(self.engine.info, self.weights, request, method, cloud),
            early=not whole,
            has_cloud=self.cloud is not None,
        )

    def _ended(self, accept: Accept, run: Run, answer: Answer | None) -> None:
        """What follows an answer, or a query without one, in the background."""
        self._audit(accept, run, answer)
        if run.state.hedge_s is not None and not run.hedged:
            self.hedges.give_back()
        if self.waiting is not None:
            self.waiting.ended(run, answer)

    def _audit(self, accept: Accept, run: Run, answer: Answer | None) -> None:
        """Perhaps compare a certified answer with the cloud's, in the background."""
        standing, policy = run.standing, run.policy
        if not (answer and answer.certified) or standing is None or standing.unwatched or self.cloud is None:
            return
        if policy.blocked(run.request, run.state) or run.request.tools or not self.audits.draw(policy.audit):
            return
        record = QueryRecord(
            request=run.request,
            policy=policy,
            prices=(self.cloud.price,),
            tries=(tries_of(self.cloud),),
            ledger=self.ledger,
            device_times=self.device_times,
            cloud_times=self.cloud_times,
        )
        from edgeai.audit import Audit

        self.audits.start(
            Audit(answer=answer, standing=standing, record=record, cloud=self.cloud, accept=accept)
        )

    def _watch(self, request: Request) -> Watch:
        return Watch(
            "\n".join(message.text for message in request.messages if message.role == "user"),
            task=request.task,
            choices=request.choices,
            span="digits" if request.schema is None else "json",
            n_vocab=self.engine.info.n_vocab,
        )

    def preview(
        self,
        prompt: Prompt,
        choices: Sequence[str],
        examples: Sequence[tuple[str, str]],
        options: CallOptions,
    ) -> Preview:
        """What the cloud would be sent for this query."""
        if self.cloud is None:
            raise ConfigError("There is no cloud, so nothing would be sent", remedy="Give the Edge a cloud")
        request, policy = read_request(prompt, **options), read_policy(self.policy, options)
        check_redaction(policy)
        if choices:
            request = with_choices(request, choices, examples)
        leaving = outbound(request, policy, self.cloud)
        return Preview(
            endpoint=self.cloud.endpoint,
            model=self.cloud.model,
            body=self.cloud.encode(leaving.released),
            labels=leaving.labels,
            redactions=leaving.redactions,
        )

    def _state(self, request: Request, policy: Policy, monitor: Monitor) -> State:
        has_cloud, told = self.cloud is not None, self.escalation()
        state = State(has_cloud=has_cloud, reachable=self._reachable(), escalation=told)
        if policy.deadline_s is None and not policy.hedge:
            return state
        state = replace(state, cloud_s=self.cloud_times.total_s())
        try:
            monitor.n_prompt = 0 if request.choices else self.engine.count_prompt(request)
        except EdgeError:  # it will be met again where the run can decide about it
            return state
        predicted = partial(self.device_times.total_s, n_in=monitor.n_prompt, max_tokens=request.max_tokens)
        if policy.hedge and policy.deadline_s is None and self.hedges.take():
            known = self.device_times.n_observed >= EVERY
            state = replace(state, hedge_s=predicted(quantile=QUANTILE) if known else None)
            if not known:
                self.hedges.give_back()
        return replace(state, device_s=predicted())

    def _reachable(self) -> bool:
        """Whether one of the clouds may be asked, from what happened last."""
        if self.cloud is None:
            return False
        from edgeai.net.breaker import is_reachable  # not needed where nothing leaves

        return any(is_reachable(cloud.endpoint) for cloud in tiers_of(self.cloud))

    def classification(
        self,
        prompt: Prompt,
        choices: Sequence[str],
        examples: Sequence[tuple[str, str]],
        options: CommonOptions,
        fields: tuple[str, str] = FIELDS,
    ) -> tuple[Call, Classifier]:
        """A query for one of the choices, and where the device's probabilities will be."""
        if unfit := sorted(set(options) - CHOICE_OPTIONS):
            raise ConfigError(f"choose takes no {unfit[0]}", why="A label is scored, not sampled")
        plain = read_request(prompt, **options)
        request = with_choices(plain, choices, examples, fields)
        policy = read_policy(self.policy, options)
        standing = self.standing(request, policy, "choose", whole=True)
        guard = standing.guard() if standing else None
        request = replace(request, hidden=self.watching or (guard is not None and guard.needs_hidden))
        strength = STRENGTH if guard is None or guard.strength is None else guard.strength
        classifier = Classifier(self.engine, request, self.priors, strength=strength)

        def accept(text: str) -> str:
            label = read_label(text, request.choices)
            if label is None:
                raise CloudProtocol(f"The cloud answered {text[:80]!r}, which is none of the choices")
            return label

        call = self.call(
            request,
            policy,
            method="choose",
            standing=standing,
            open_device=classifier.open,
            whole=True,
            accept=accept,
        )
        return call, classifier

    def extraction(
        self, prompt: Prompt, schema: type[M] | JsonSchema, options: CommonOptions
    ) -> tuple[Call, Callable[[Answer], Any]]:
        """A query for a value that fits the schema, and how to read it out of the answer."""
        request = read_request(prompt, schema=schema, **options)
        parse = schema_parser(schema)

        def read(answer: Answer) -> Any:  # noqa: ANN401  # whatever the schema describes
            try:
                return parse(answer.text)
            except ValueError as error:
                n_tokens = answer.usage.completion_tokens
                raise EngineError(
                    "The answer does not fit the schema",
                    why=f"It ended by {answer.finish_reason!r} after {n_tokens} tokens: {error}",
                    remedy=f"Raise max_tokens, now {request.max_tokens}",
                ) from None

        policy = read_policy(self.policy, options)
        return self.call(request, policy, method="extract", whole=True, accept=fits(parse)), read

    def embed(
        self, texts: Sequence[str], adapter: str | None = None, priority: Priority = "interactive"
    ) -> "NDArray[np.float32]":
        """One unit vector a text, shape (len(texts), n_embd)."""
        if isinstance(texts, str) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
            raise ConfigError("embed takes a list of texts, none of them empty")
        check_priority(priority)
        if adapter is None and priority == "interactive":  # all that an engine of the app's own need know
            return self.engine.embed(texts)
        return self.engine.embed(texts, adapter=adapter, priority=priority)

    def profile(self) -> None:
        """Prime the time model by a few short generations, so that the first deadline has a prediction.

        About a second; a device that takes longer than two stays unknown, and counts as late.
        """
        for n_words in PROFILE_WORDS:
            request = read_request("word " * n_words, max_tokens=PROFILE_TOKENS)
            with self.engine.stream(request) as generation:
                limit = threading.Timer(PROFILE_LIMIT_S, generation.cancel)
                limit.start()
                try:
                    tokens = list(generation)
                except EngineError:
                    return
                finally:
                    limit.cancel()
            if (finished := generation.finished) is not None:
                self.device_times.observe(
                    n_in=finished.n_prompt - finished.n_cached,
                    n_out=len(tokens),
                    prefill_s=finished.prefill_s,
                    decode_s=sum(token.step_s for token in tokens[1:]),
                    typical=False,
                )

    def close(self) -> None:
        """End all queries and free the model's memory."""
        self.closed.set()
        for call in list(self.calls):
            call.close(Cancelled("The Edge was closed"))
        if self.waiting is not None:
            self.waiting.close()
        self.audits.close()
        self.engine.close()
        if self.ledger is not None:
            self.ledger.close()


def _is_suspended(standing: Standing, policy: Policy) -> bool:
    """Whether the policy wants all queries to leave, because the contract does not hold."""
    if not standing.applies:
        return policy.on_mismatch == "escalate"
    return not standing.trusted and policy.on_drift == "escalate"


def fits(parse: Callable[[str], Any]) -> Accept:
    """What refuses a cloud's text that ``parse`` cannot read."""

    def accept(text: str) -> str:
        try:
            parse(text)
        except ValueError as error:
            raise CloudProtocol("The cloud's answer does not fit the schema", why=str(error)) from None
        return text

    return accept
