"""The product: ask, and the device answers; the cloud only when the policy says so.

`Edge` is a model on this machine, a policy and, if the app gives one, a cloud. Every verb makes a `Request`,
walks it through a `Run` (the decisions) in a `Call` (the moving parts), and gives a stream of events or the
answer at its end. `AsyncEdge` (`edgeai.async_edge`) is the same with ``await``.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, overload

from edgeai.binding import bound_device, weights_of_info
from edgeai.cloud import Cloud, open_clouds
from edgeai.drive import Stream
from edgeai.engines import Engine, EngineInfo
from edgeai.errors import ConfigError, EdgeError
from edgeai.gate import check_redaction
from edgeai.isolated import IsolationName
from edgeai.kept import open_ledger, open_waiting
from edgeai.load import EngineName, Wanted, open_model
from edgeai.options import (
    check_listener,
    check_policy,
    read_adapters,
    read_messages,
    read_system,
    warm_request,
)
from edgeai.policy import Policy
from edgeai.record import check_budget
from edgeai.sensors import open_escalation, open_meter
from edgeai.session import Preview, Session
from edgeai.standing import Contracts, DriftAlarm, read_contract
from edgeai.types import (
    FIELDS,
    Answer,
    CallOptions,
    Choice,
    CommonOptions,
    Extraction,
    JsonSchema,
    Message,
    Priority,
    Prompt,
    Tool,
    Warmed,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgeai.devices.profiles import Goal
    from edgeai.ledger import Ledger
    from edgeai.resend import QueuedAnswer
    from edgeai.waiting import Waiting

M = TypeVar("M")
DEFAULT_MODEL = "smollm2-135m-instruct"
MOST_WARM_BYTES = 1 << 30


class Edge:
    """A model on this machine, and the way to a bigger one when the policy allows it.

    model: a catalog name, a package folder, the path of a ``.gguf`` or ``.onnx`` file, or a folder that
        onnxruntime-genai's builder or optimum made; it must be there, because constructors never use the
        network (``edgeai models pull NAME`` installs a model of the catalog).
    engine: "auto", the name of an engine, or an `Engine` of your own.
    n_ctx: tokens per conversation; None takes the model's own, up to 4096.
    threads: how many compute, at all times; None takes one a core, and fewer while other programs use the
        cores.
    profile: the name of a device profile (`edgeai devices` lists them), which says how much memory a model
        may take, how many threads compute and how long a context is usual; "auto" takes this machine's.
    goal: "speed", or "battery" for what the profile does on battery.
    device: "cpu", "gpu", "npu", or an execution provider such as "cuda", "vulkan", "qnn" or "openvino", with
        ":" one of its devices ("openvino:CPU"). "auto" takes what the profile names and what has been seen to
        work, down to the processor; `info.steps` says what was passed over, and why.
    allow_fallback: use the processor where ``device`` cannot be had, which is an error otherwise.
    parallel: queries that are answered at once, 1 to 64; more wait. None: what the engine does best (8 on
        llama.cpp). They share the memory of one full context, or of 256 tokens each if that is more.
    speculate: let the engine guess tokens ahead where answers repeat what came before and where it pays
        (llama.cpp). It changes no answer.
    draft: a smaller model of the same vocabulary, named as ``model`` is, that guesses tokens, too
        (llama.cpp); it is left alone where that saves no time.
    cloud: an address such as "openai:gpt-…", a `Cloud`, or a sequence of them from cheap to strong, of which
        the next is asked when one fails or refuses. None: nothing can leave.
    policy: the rules; the default keeps every byte on the device.
    ledger: True records each query (no content) in the data folder; a path records there, an open `Ledger`
        in it (the Edge then closes it); False nowhere.
    queue_key: encrypts the questions that wait under ``when_offline="queue"`` (`edgeai queue key` makes one).
    allow_large: load a model of more than 3 billion parameters, or one that memory is too small for, all
        the same.
    isolation: "process" runs the engine in a child process, so that a crash in native code ends the queries
        that were under way, not the app; "thread" does not; "auto" does for a file that nobody vouches for.
    isolation_memory_bytes: bounds that process's private memory, which excludes mapped weights (Linux).
    isolation_limit_s: seconds (None: 60) without a sign of life, while it has work, after which that process
        counts as crashed; more than a batch takes on this machine.
    adapters: LoRA adapters (GGUF files) by name, one of which a call may ask for as ``adapter``.

    Raises ModelError's, StoreError's and EngineError's leaves, ConfigError, MissingExtra, PolicyError and
    LedgerError. Safe from any thread. Close it, or use it in a ``with`` block.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        *,
        engine: EngineName | Engine = "auto",
        n_ctx: int | None = None,
        threads: int | None = None,
        profile: str = "auto",
        goal: "Goal" = "speed",
        device: str = "auto",
        allow_fallback: bool = False,
        parallel: int | None = None,
        speculate: bool = True,
        draft: str | Path | None = None,
        cloud: str | Cloud | Sequence[str | Cloud] | None = None,
        policy: Policy = Policy(),
        ledger: "bool | str | Path | Ledger" = True,
        queue_key: str | None = None,
        allow_large: bool = False,
        isolation: IsolationName = "auto",
        isolation_memory_bytes: int | None = None,
        isolation_limit_s: float | None = None,
        adapters: Mapping[str, str | Path] = MappingProxyType({}),
    ) -> None:
        bigger = open_clouds(cloud)
        check_policy(policy)
        if not isinstance(model, str | Path):
            raise ConfigError(f"model is {model!r}", remedy="Give a name, or the path of a model")
        check_budget(policy, bigger, has_ledger=ledger is not False)
        check_redaction(policy)
        weights = None
        if isinstance(engine, str):
            bound = None if policy.contract is None else read_contract(policy.contract).binding
            if bound is not None and device == "auto":
                device, allow_fallback = bound_device(bound.engine), True
            wanted = Wanted(
                n_ctx=n_ctx,
                threads=threads,
                parallel=parallel,
                speculate=speculate,
                draft=draft,
                profile=profile,
                goal=goal,
                device=device,
                allow_fallback=allow_fallback,
                adapters=read_adapters(adapters),
                allow_large=allow_large,
                isolation=isolation,
                isolation_memory_bytes=isolation_memory_bytes,
                isolation_limit_s=isolation_limit_s,
            )
            loaded = open_model(model, engine, wanted, weights=None if bound is None else bound.weights)
            engine, weights = loaded.engine, loaded.weights
        elif adapters:
            raise ConfigError("adapters are given beside an engine of your own", remedy="Give them to it")
        elif draft is not None:
            raise ConfigError("A draft model is given beside an engine of your own", remedy="Leave it out")
        elif device != "auto":
            raise ConfigError("An engine of your own has its device", remedy="Leave device out")
        elif isolation != "auto" or (isolation_memory_bytes, isolation_limit_s) != (None, None):
            raise ConfigError("An engine of your own runs where you opened it", remedy="Leave isolation out")
        try:
            meter = open_meter(profile)
            escalation = open_escalation(profile, goal, engine)
            book = open_ledger(ledger)
            waiting = open_waiting(bigger, policy, book, key=queue_key)
        except EdgeError:
            engine.close()
            raise
        self._session = Session(
            engine=engine,
            cloud=bigger,
            policy=policy,
            ledger=book,
            weights=weights or weights_of_info(engine.info),
            contracts=Contracts(book.history if book else None),
            waiting=waiting,
            meter=meter,
            escalation=escalation,
        )
        try:
            self._session.contracts.live(policy)
            if policy.deadline_s is not None:
                self._session.profile()
        except BaseException:  # Ctrl-C, too, leaves no model behind
            self._session.close()
            raise

    def ask(self, prompt: Prompt, **options: Unpack[CallOptions]) -> Answer:
        """The answer to a text or a list of messages. Raises EngineError, CloudError or BothFailed."""
        return self.stream(prompt, **options).answer()

    def stream(self, prompt: Prompt, **options: Unpack[CallOptions]) -> Stream:
        """The answer as it comes: an iterator of `Delta`, `Replaced` and `Done`."""
        return Stream(self._session.question(prompt, options))

    def chat(self, system: str | None = None) -> "Chat":
        """A conversation that remembers its turns; on the device only what is new needs prefill."""
        return Chat(self, Turns(system))

    def choose(
        self,
        prompt: Prompt,
        choices: Sequence[str],
        *,
        examples: Sequence[tuple[str, str]] = (),
        fields: tuple[str, str] = FIELDS,
        **options: Unpack[CommonOptions],
    ) -> Choice:
        """The one of ``choices`` that fits best, by the likelihood of each label.

        ``examples`` are (text, label) pairs; a tiny model needs some. ``fields`` name the text and what the
        label says of it, such as ("Headline", "Gold price"): what a tiny model is told of its task. The score
        is the label's probability.
        """
        call, classifier = self._session.classification(prompt, choices, examples, options, fields)
        answer = Stream(call).answer()
        return Choice(label=answer.text, probabilities=classifier.probabilities, answer=answer)

    @overload
    def extract(self, prompt: Prompt, schema: type[M], **options: Unpack[CommonOptions]) -> Extraction[M]: ...
    @overload
    def extract(
        self, prompt: Prompt, schema: JsonSchema, **options: Unpack[CommonOptions]
    ) -> Extraction[Any]: ...
    def extract(
        self, prompt: Prompt, schema: type[M] | JsonSchema, **options: Unpack[CommonOptions]
    ) -> Extraction[M] | Extraction[Any]:
        """A value that fits a JSON schema or a pydantic model; on the device by constrained decoding.

        Raises EngineError when the device's JSON was cut off and no cloud could take over.
        """
        call, read = self._session.extraction(prompt, schema, options)
        answer = Stream(call).answer()
        return Extraction(value=read(answer), answer=answer)

    def embed(
        self, texts: Sequence[str], *, adapter: str | None = None, priority: Priority = "interactive"
    ) -> "NDArray[np.float32]":
        """One unit vector a text, shape (len(texts), n_embd). Always on the device."""
        return self._session.embed(texts, adapter, priority)

    def warm(
        self,
        system: str | None = None,
        messages: Sequence[Message] = (),
        *,
        tools: Sequence[Tool] = (),
        adapter: str | None = None,
        most_bytes: int = MOST_WARM_BYTES,
    ) -> Warmed:
        """Compute the head of later prompts now, and keep it on the disk for later starts.

        ``system``, few-shot ``messages``, or a document as a user's message, which later ones continue. A
        query that begins with it has its first token at once, also after a restart, as long as model, adapter
        and library are the same; call it again at each start, and it is computed only when needed.
        What is kept tells as much as the text itself: it lies in the cache folder, readable for this user
        alone (`edgeai warm clear` deletes it), and nothing is ever kept without this call. All of it takes at
        most ``most_bytes``; what has not been used for longest goes first.
        Raises ContextOverflow, ModelUnsupported, DiskFull, ConfigError.
        """
        request = warm_request(system, messages, tools, adapter)
        return self._session.engine.warm(request, most_bytes=most_bytes)

    def on_drift(self, listener: Callable[[DriftAlarm], None]) -> None:
        """Call ``listener`` when audits show that a contract no longer holds, those of other processes too.

        It is called in a thread of edgeai's, and may close the Edge.
        """
        self._session.contracts.listeners.append(check_listener(listener))

    def on_queued(self, listener: "Callable[[QueuedAnswer], None]") -> None:
        """Call ``listener``, in a thread of its own, with each late answer to a question that was queued.

        Raises ConfigError without a cloud and ``Policy(when_offline="queue")``.
        """
        self._waiting().listeners.append(check_listener(listener))

    def send_queued(self) -> int:
        """Send what waits now, oldest first and within the budget; how many were answered.

        It also happens by itself, within seconds of the network being back.
        """
        return self._waiting().send()

    def _waiting(self) -> "Waiting":
        if self._session.waiting is None:
            raise ConfigError("Nothing is queued here", remedy='Use a cloud and Policy(when_offline="queue")')
        return self._session.waiting

    def wait_for_audits(self, timeout_s: float | None = None) -> None:
        """Wait until the audits that are under way have ended; for programs that end soon.

        `close` cancels them, and what has been sent may be paid all the same. ``timeout_s`` is for each.
        """
        self._session.audits.wait(timeout_s)

    def preview(
        self,
        prompt: Prompt,
        *,
        choices: Sequence[str] = (),
        examples: Sequence[tuple[str, str]] = (),
        **options: Unpack[CallOptions],
    ) -> Preview:
        """What would leave for this query if it left: where to, and byte for byte. Sends nothing.

        Takes what `ask`, and with ``choices`` what `choose` takes. Raises PrivacyViolation for a query that
        may not leave, and ConfigError without a cloud. The budget is not asked.
        """
        return self._session.preview(prompt, choices, examples, options)

    @property
    def info(self) -> EngineInfo:
        """What the loaded model is."""
        return self._session.engine.info

    def close(self) -> None:
        """End all queries and free the model's memory."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Turns:
    """The messages of a conversation. A turn is added when its answer is complete, or was stopped."""

    def __init__(self, system: str | None) -> None:
        self.messages: list[Message] = read_system(system)

    def ask(self, prompt: Prompt) -> tuple[Message, ...]:
        """The next question's messages."""
        return read_messages(prompt)

    def add(self, asked: tuple[Message, ...], answer: Answer) -> None:
        """Take the question and its answer into the conversation.

        What the device said of something private is private, too, and labels are handed on.
        """
        before = (*self.messages, *asked)
        private = answer.source == "device" and any(turn.holds_private for turn in before)
        labels = sorted({label for turn in before for label in turn.labels})
        said = Message(
            "assistant",
            answer.text,
            private=private,
            label=", ".join(labels) or None,
            tool_calls=answer.tool_calls,
        )
        self.messages += [*asked, said]


class Chat:
    """A conversation on an `Edge`. ``messages`` is the history, which may be edited between turns."""

    def __init__(self, edge: Edge, turns: Turns) -> None:
        self._edge, self._turns = edge, turns

    @property
    def messages(self) -> list[Message]:
        """The turns so far, the system message first."""
        return self._turns.messages

    def ask(self, prompt: Prompt, **options: Unpack[CallOptions]) -> Answer:
        """The answer to the next turn."""
        return self.stream(prompt, **options).answer()

    def stream(self, prompt: Prompt, **options: Unpack[CallOptions]) -> Stream:
        """The answer to the next turn as it comes; the turn is remembered when its `Done` has been read."""
        asked = self._turns.ask(prompt)
        call = self._edge._session.question((*self.messages, *asked), options)
        return Stream(call, on_done=lambda answer: self._turns.add(asked, answer))
