"""What all queries of one Edge share, and how each of them is put together."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from edgeai.call import Call
from edgeai.choose import Classifier, with_choices
from edgeai.cloud import Cloud
from edgeai.cloud.tiers import tiers_of
from edgeai.egress import read_label, release
from edgeai.engines import Engine, Generation
from edgeai.engines.tools import parse_tool_calls
from edgeai.errors import Cancelled, CloudProtocol, ConfigError, EdgeError, EngineCrashed, EngineError
from edgeai.monitor import CloudTimes, Monitor, TimeModel
from edgeai.options import read_policy, read_request, schema_parser
from edgeai.outcome import Labels
from edgeai.policy import Policy, State
from edgeai.record import QueryRecord, check_budget
from edgeai.run import Accept, Run
from edgeai.types import Answer, CallOptions, CommonOptions, JsonSchema, Prompt, Request

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgeai.ledger import Ledger

M = TypeVar("M")
CHOICE_OPTIONS = {"task", "policy", "max_tokens"}
PROFILE_WORDS = (8, 32, 96)
PROFILE_TOKENS = 8
PROFILE_LIMIT_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A loaded engine, perhaps a cloud, the policy between them, and what is learned and recorded."""

    engine: Engine
    cloud: Cloud | None
    policy: Policy
    ledger: "Ledger | None"
    device_times: TimeModel = field(default_factory=TimeModel)
    cloud_times: CloudTimes = field(default_factory=CloudTimes)
    calls: "WeakSet[Call]" = field(default_factory=WeakSet)
    closed: threading.Event = field(default_factory=threading.Event)

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
        open_device: Callable[[], Generation] | None = None,
        whole: bool = False,
        accept: Accept = lambda text: text,
    ) -> Call:
        """The moving parts of one query. ``open_device`` replaces the engine's ordinary stream."""
        if self.closed.is_set():
            raise EngineCrashed("The Edge is closed", remedy="Open it again")
        if policy is not self.policy:
            check_budget(policy, self.cloud, has_ledger=self.ledger is not None)
        monitor = Monitor(
            self.device_times if policy.deadline_s else None,
            max_tokens=request.max_tokens,
            labels=bool(request.choices),
        )
        state = self._state(request, policy, monitor)
        labels = self._labels()
        run = Run(
            request,
            policy,
            monitor,
            state,
            labels,
            whole=whole,
            accept=accept,
            read_calls=lambda text: parse_tool_calls(text, request.tools),
        )
        record = QueryRecord(
            request=request,
            policy=policy,
            prices=tuple(one.price for one in tiers_of(self.cloud)),
            tries=tuple(one.tries for one in tiers_of(self.cloud)),
            ledger=self.ledger,
            device_times=self.device_times,
            cloud_times=self.cloud_times,
        )
        call = Call(
            run,
            open_device=open_device or (lambda: self.engine.stream(request)),
            cloud=self.cloud,
            release=lambda: release(request, privacy=policy.privacy, disclose=policy.disclose),
            record=record,
        )
        self.calls.add(call)
        return call

    def _state(self, request: Request, policy: Policy, monitor: Monitor) -> State:
        if policy.deadline_s is None:
            return State(has_cloud=self.cloud is not None)
        try:
            monitor.n_prompt = 0 if request.choices else self.engine.count_prompt(request)
        except EdgeError:  # it will be met again where the run can decide about it
            return State(has_cloud=self.cloud is not None, cloud_s=self.cloud_times.total_s())
        return State(
            has_cloud=self.cloud is not None,
            device_s=self.device_times.total_s(n_in=monitor.n_prompt, max_tokens=request.max_tokens),
            cloud_s=self.cloud_times.total_s(),
        )

    def _labels(self) -> Labels:
        info = self.engine.info
        if self.cloud is None:
            return Labels(device_model=info.model, engine=info.engine)
        first, *above = (
            Labels(
                device_model=info.model,
                engine=info.engine,
                cloud_model=cloud.model,
                endpoint=cloud.endpoint,
                price=cloud.price,
            )
            for cloud in tiers_of(self.cloud)
        )
        return replace(first, above=tuple(above))

    def classification(
        self,
        prompt: Prompt,
        choices: Sequence[str],
        examples: Sequence[tuple[str, str]],
        options: CommonOptions,
    ) -> tuple[Call, Classifier]:
        """A query for one of the choices, and where the device's probabilities will be."""
        if unfit := sorted(set(options) - CHOICE_OPTIONS):
            raise ConfigError(f"choose takes no {unfit[0]}", why="A label is scored, not sampled")
        plain = read_request(prompt, **options)
        request = with_choices(plain, choices, examples)
        classifier = Classifier(self.engine, request)

        def accept(text: str) -> str:
            label = read_label(text, request.choices)
            if label is None:
                raise CloudProtocol(f"The cloud answered {text[:80]!r}, which is none of the choices")
            return label

        policy = read_policy(self.policy, options)
        return self.call(request, policy, open_device=classifier.open, whole=True, accept=accept), classifier

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

        return self.call(request, read_policy(self.policy, options), whole=True, accept=fits(parse)), read

    def embed(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        """One unit vector a text, shape (len(texts), n_embd)."""
        if isinstance(texts, str) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
            raise ConfigError("embed takes a list of texts, none of them empty")
        return self.engine.embed(texts)

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
        self.engine.close()
        if self.ledger is not None:
            self.ledger.close()


def fits(parse: Callable[[str], Any]) -> Accept:
    """What refuses a cloud's text that ``parse`` cannot read."""

    def accept(text: str) -> str:
        try:
            parse(text)
        except ValueError as error:
            raise CloudProtocol("The cloud's answer does not fit the schema", why=str(error)) from None
        return text

    return accept


def open_ledger(ledger: bool | str | Path) -> "Ledger | None":  # noqa: FBT001  # `ledger=True` reads well
    """The record in the data folder, or at a path, or none. Raises LedgerError."""
    if ledger is False:
        return None
    from edgeai.ledger import Ledger

    if not isinstance(ledger, bool | str | Path):
        raise ConfigError(f"ledger is {ledger!r}, expected True, False or a path")
    return Ledger.open(None if ledger is True else Path(ledger))
