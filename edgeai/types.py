"""The values that travel through edgeai: frozen, and with the unit in the name.

``None`` always means "unknown", never zero.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, Literal, TypedDict, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")

Priority = Literal["interactive", "background"]
Role = Literal["system", "user", "assistant", "tool"]
Source = Literal["device", "cloud"]
FinishReason = Literal["stop", "length", "tool_calls", "cancelled"]
JsonSchema = Mapping[str, Any]
Escalation = Literal["usual", "prefer", "keep"]
"""What the machine's state says of leaving: nothing, rather leave, or only leave where it must be."""


class Reason(StrEnum):
    """Why an answer stayed on the device, or left it. The first word of every decision."""

    # reasons to leave
    LOW_CONFIDENCE = "low_confidence"
    DEADLINE = "deadline"
    HEDGE = "hedge"
    TOO_LONG = "too_long"
    ENGINE_ERROR = "engine_error"
    CONTEXT_OVERFLOW = "context_overflow"
    UNSUPPORTED = "unsupported"
    POLICY = "policy"
    ROUTED = "routed"
    UNCERTIFIED = "uncertified"
    POWER = "power"
    # reasons to stay
    CONFIDENT = "confident"
    UNJUDGED = "unjudged"
    FINAL = "final"
    PRIVATE = "private"
    NO_CLOUD = "no_cloud"
    OFFLINE = "offline"
    BUDGET = "budget"
    FRUGAL = "frugal"
    CLOUD_FAILED = "cloud_failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of a message's content; ``private`` and ``label`` as in `Message`, for this piece alone."""

    text: str
    private: bool = field(default=False, kw_only=True)
    label: str | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image in a message: the bytes of a PNG, JPEG, WebP or GIF file and its media type."""

    data: bytes = field(repr=False)
    media_type: str = "image/png"
    private: bool = False
    label: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call the model wants the app to make. ``arguments`` fit the tool's JSON schema on the device."""

    name: str
    arguments: Mapping[str, Any]
    id: str = "call_0"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. A ``private`` message never leaves the device, whatever the policy says.

    ``label`` says what it is about, as "health" (several: "health, money"); it leaves only where
    `Policy.labels` has a rule that lets it.
    """

    role: Role
    content: str | Sequence[Text | Image] = ""
    private: bool = field(default=False, kw_only=True)
    label: str | None = field(default=None, kw_only=True)
    tool_calls: tuple[ToolCall, ...] = field(default=(), kw_only=True)
    tool_call_id: str | None = field(default=None, kw_only=True)

    @property
    def text(self) -> str:
        """The content's text, its pieces joined; images have none."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content if isinstance(part, Text))

    @property
    def images(self) -> tuple[Image, ...]:
        """The content's images, in order."""
        if isinstance(self.content, str):
            return ()
        return tuple(part for part in self.content if isinstance(part, Image))

    @property
    def holds_private(self) -> bool:
        """Whether the message, or a part of it, is private."""
        return self.private or any(part.private for part in self._parts)

    @property
    def labels(self) -> frozenset[str]:
        """The labels of the message and of its parts."""
        return frozenset().union(*(read_labels(item.label) for item in (self, *self._parts)))

    @property
    def _parts(self) -> Sequence[Text | Image]:
        return () if isinstance(self.content, str) else self.content


def read_labels(label: str | None) -> frozenset[str]:
    """The labels that a text with commas names; none for None."""
    return frozenset(name.strip() for name in (label or "").split(",") if name.strip())


Prompt = str | Sequence[Message]
FIELDS = ("Text", "Category")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function the model may ask the app to call; ``parameters`` is the JSON schema of its arguments."""

    name: str
    description: str = ""
    parameters: JsonSchema = field(default_factory=lambda: {"type": "object", "properties": {}})


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are drawn. ``temperature=0`` is greedy, and then the other fields have no effect."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One query as every part sees it. ``max_tokens`` bounds the answer; ``n_ctx`` is the engine's business.

    ``schema`` (JSON schema) and ``grammar`` (llguidance's Lark dialect) constrain the answer; at most one is
    set. ``choices`` makes it a classification by label likelihood, ``examples`` are its (text, label) pairs,
    ``fields`` the names of text and label in its prompt.
    ``hold`` is the number of first tokens kept back, see `edgeai.run`. ``adapter`` names the LoRA adapter
    under which the device answers, None for the plain model. ``hidden`` asks the engine for the
    hidden state with each token (`Token.hidden`).
    """

    messages: tuple[Message, ...]
    max_tokens: int = 512
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    schema: JsonSchema | None = None
    grammar: str | None = None
    tools: tuple[Tool, ...] = ()
    choices: tuple[str, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()
    fields: tuple[str, str] = FIELDS
    task: str | None = None
    priority: Priority = "interactive"
    hold: int | None = None
    adapter: str | None = None
    hidden: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """What may leave the device for one request; only `edgeai.egress` makes one, clouds take nothing else."""

    messages: tuple[Message, ...]
    max_tokens: int
    sampling: Sampling
    stop: tuple[str, ...] = ()
    schema: JsonSchema | None = None
    tools: tuple[Tool, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One generated token, stamped by the engine.

    ``logprob`` (nats, of the chosen token), ``entropy`` (nats) and ``margin`` (p1 − p2) come from the raw
    logits at temperature 1, before penalties, samplers and masks. ``step_s`` is the time this token took in
    the engine, in seconds. ``text`` is whole UTF-8 characters; it may be empty. ``hidden`` is the last
    layer's state at the token before, from which this one was chosen: the first token's is that of the
    prompt's end. None unless the request asked for it and the model gives it.
    """

    id: int
    text: str
    logprob: float
    entropy: float
    margin: float
    step_s: float
    hidden: "NDArray[np.float32] | None" = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelScores:
    """The measurements of a classification, in the order of the choices, in nats.

    ``logprobs`` are the labels' total log-probabilities after the prompt, ``content_free`` those after the
    same prompt about an input without content, of which ``strength`` times is taken away.
    """

    logprobs: tuple[float, ...]
    content_free: tuple[float, ...] | None = None
    strength: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts. ``cached_tokens`` are those of the prompt that needed no prefill.

    ``reasoning_tokens`` are those of the completion that the model thought and did not say;
    ``cache_write_tokens`` those of the prompt that a cloud stored, at a price, for later prompts.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cache_write_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds from the call to the first token and to the end; tokens per second of decode and prefill."""

    ttft_s: float | None = None
    total_s: float | None = None
    decode_tps: float | None = None
    prefill_tps: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """What the monitor knows after the last token. ``score``: higher is safer, named by ``score_name``.

    ``remaining_s`` is the upper (90 %) prediction of the seconds until the answer ends. ``cut_off``: the
    answer ended unfinished, at the context's end or inside a JSON value. Under a contract ``threshold`` is
    the score that an answer needs at its end, ``keeps`` says whether it may stay (None while that is open),
    and ``confidence`` is the calibrated probability that it is right.
    """

    n_tokens: int
    elapsed_s: float
    remaining_s: float | None = None
    score: float | None = None
    score_name: str | None = None
    finished: FinishReason | None = None
    cut_off: bool = False
    threshold: float | None = None
    keeps: bool | None = None
    confidence: float | None = None
    features: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The end of a query: the text, where it came from, why, and what it cost.

    ``reason`` is for programs, ``explanation`` for people. ``score`` judges the device's answer, also when
    the cloud replaced it; higher is safer. ``confidence`` is the calibrated probability that the device's
    answer is right; None without a contract that was calibrated for exactly this, and for the cloud's
    answers. ``certified`` is true only for an answer that such a contract keeps; ``contract`` is then, and
    whenever one applied, the hash that names it. ``disclosed_bytes`` left the device for this answer.
    ``energy_j`` is what the device used in joules while the query ran, by the meter ``energy_source`` names
    ("rapl", "nvml", "battery"; "estimate": a profile's watts); a cloud's share is not in it.
    ``dropped_turns`` is the number of exchanges that the device was not told, see `Policy.when_full`.
    ``device`` is what computed the device's answer, such as "cpu", "cuda" or "cpu, prefill on qnn";
    ``passed_over`` tells which execution providers did not, each with the reason.
    ``price_as_of`` says which price list ``cost_usd`` was reckoned by: its name and version, or its date.
    """

    text: str
    source: Source
    model: str
    reason: Reason
    explanation: str
    engine: str | None = None
    endpoint: str | None = None
    score: float | None = None
    score_name: str | None = None
    confidence: float | None = None
    certified: bool = False
    contract: str | None = None
    usage: Usage = Usage()
    timing: Timing = Timing()
    cost_usd: float | None = None
    price_as_of: str | None = None
    energy_j: float | None = None
    energy_source: str | None = None
    finish_reason: FinishReason | None = None
    disclosed_bytes: int = 0
    tool_calls: tuple[ToolCall, ...] = ()
    dropped_turns: int = 0
    device: str | None = None
    passed_over: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """Append this text to what is shown."""

    text: str
    source: Source


@dataclass(frozen=True, slots=True)
class Replaced:
    """Withdraw all text shown so far; a Delta of ``source`` follows."""

    reason: Reason
    source: Source


@dataclass(frozen=True, slots=True)
class Done:
    """The stream has ended with this answer; its text equals what is shown."""

    answer: Answer


Event = Delta | Replaced | Done


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One of the labels that were given. ``probabilities`` are the device's, None if it was not asked."""

    label: str
    probabilities: Mapping[str, float] | None
    answer: Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction(Generic[T]):
    """A value that fits the schema: parsed JSON, or an instance of the pydantic model that was given."""

    value: T
    answer: Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Warmed:
    """A prompt's head that is ready: its tokens, those that needed no computing, and its bytes on the disk.

    ``kept_bytes`` is 0 when it was on the disk already.
    """

    tokens: int
    cached_tokens: int
    kept_bytes: int


class CommonOptions(TypedDict, total=False):
    """The keywords of every call. An unknown one is a ConfigError, so that a slip is not ignored."""

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int | None
    stop: str | Sequence[str]
    task: str | None
    priority: Priority
    hold: int | None
    adapter: str | None
    policy: Any


class CallOptions(CommonOptions, total=False):
    """The keywords of `ask`, `stream` and of a chat's turns; at most one of these three is given."""

    schema: JsonSchema | type[Any] | None
    grammar: str | None
    tools: Sequence[Tool]
