"""The seam to a model on this machine.

An engine package (`edgeai.engines.llamacpp`) opens one model file and answers many callers at once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

from edgeai.engines.generation import Generation
from edgeai.types import Priority, Request, Warmed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "DevicePlan",
    "Engine",
    "EngineInfo",
    "Generation",
    "Offload",
    "OnState",
    "Step",
    "Throttled",
    "Work",
    "without",
]

Work: TypeAlias = Literal["prefill", "decode", "embed", "classify"]

OnState: TypeAlias = Callable[["NDArray[np.float32]"], None]
"""Takes a copy of a hidden state, in the engine's thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """An execution provider that was considered for some work; ``why`` it was passed over, None if taken.

    ``layers``: how many of a model's layers llama.cpp computes there, and in all.
    """

    work: Work
    provider: str
    why: str | None = None
    layers: tuple[int, int] | None = None


def without(steps: Sequence[Step], provider: str, why: str) -> tuple[Step, ...]:
    """The steps when the provider has failed after all to decode, and the processor does it."""
    taken = [step.work == "decode" and step.provider == provider and step.why is None for step in steps]
    told = (replace(step, why=why) if was else step for step, was in zip(steps, taken, strict=True))
    return (*told, Step(work="decode", provider="cpu"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Offload:
    """One kind of work on an execution provider of ONNX Runtime, which was seen to do it right.

    ``graph`` is a file for ``tokens`` tokens, or the main graph for any number (0) where the work is decoding
    with all else; ``compiled`` the same, made ready for the device, if there is such a file. ``native`` is
    ONNX Runtime's name of the provider, ``plugin`` the module that brings it. ``required``: that it cannot be
    opened is an error, and not a reason to use the processor.
    """

    work: Work
    provider: str
    native: str
    graph: str
    tokens: int
    plugin: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    compiled: str | None = None
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePlan:
    """What the engine may use: decided by `edgeai.devices`, never by the engine.

    ``n_ctx`` is in tokens per sequence, ``n_threads`` counts compute threads. With ``follow_load`` those are
    the most, and an engine that can uses fewer while other programs are busy.
    What only some engines have, None for their own choice. llama.cpp: ``n_ubatch`` tokens are computed at
    once, ``flash_attn`` joins the steps of attention, ``kv_type`` of the KV cache is f16 or q8_0. ONNX
    Runtime: threads wait ``spin_us`` microseconds before they sleep, ``prepack`` orders weights for the
    processor, which takes memory. ``spare_session``: there is memory for a second session with fewer
    threads, without which the load is not followed there.
    ``draft`` is the file of a smaller model that guesses tokens, on llama.cpp.
    ``parallel`` is the number of queries that are answered at once, None what the engine does best. With
    ``speculate`` tokens may be guessed ahead where that pays. ``weights`` is the hash of the model's files:
    by it `Engine.warm` knows what it has kept; without it, it keeps nothing. ``adapters`` are the files of
    LoRA adapters that requests may name.
    ``provider`` decodes: on llama.cpp with its last ``gpu_layers`` (None: all) on its ``gpus``, devices by
    ggml's names; ``gpu_shared`` if their memory is the machine's, ``gpu_optional`` if the processor will do.
    ``offloads`` is work that ONNX Runtime does elsewhere. ``steps`` tell how that was decided.
    """

    n_ctx: int
    n_threads: int
    provider: str = "cpu"
    verbose: bool = False
    follow_load: bool = True
    n_ubatch: int | None = None
    flash_attn: bool | None = None
    kv_type: Literal["f16", "q8_0"] = "f16"
    spin_us: int | None = None
    prepack: bool = True
    spare_session: bool = True
    weights: str = ""
    adapters: Mapping[str, str] = field(default_factory=dict)
    parallel: int | None = None
    speculate: bool = True
    draft: str = ""
    gpus: tuple[str, ...] = ()
    gpu_layers: int | None = None
    gpu_shared: bool = False
    gpu_optional: bool = False
    offloads: tuple[Offload, ...] = ()
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What the loaded model is. ``template_hash`` is the SHA-256 of the chat template's source.

    ``inactive_parameters`` are those of experts that a token does not go through, 0 for a dense model.
    ``adapters`` are the names of the LoRA adapters that requests may ask for, with the SHA-256 of each file.
    ``provider`` decodes; ``steps`` tell which providers were considered for each kind of work, and why those
    before the one that is used were passed over. ``labels`` are those that a classifier knows: it scores
    these only, and writes nothing.
    """

    engine: str
    model: str
    parameters: int
    n_ctx: int
    n_ctx_train: int
    n_vocab: int
    n_embd: int
    quantization: str
    template_hash: str
    provider: str = "cpu"
    inactive_parameters: int = 0
    adapters: Mapping[str, str] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    labels: tuple[str, ...] = ()

    @property
    def device(self) -> str:
        """The provider that decodes, with those of other work: "cpu", or "cpu, embed on qnn"."""
        taken = (step for step in self.steps if step.why is None and step.provider != self.provider)
        return ", ".join([self.provider, *(f"{step.work} on {step.provider}" for step in taken)])

    @property
    def passed_over(self) -> tuple[str, ...]:
        """The providers that might have worked and do not, as "prefill on qnn: it timed out"."""
        found = (f"{step.work} on {step.provider}: {step.why}" for step in self.steps if step.why)
        return tuple(dict.fromkeys(found))

    @property
    def active_parameters(self) -> int:
        """How many parameters a token goes through: all of them, but in a mixture of experts."""
        return self.parameters - self.inactive_parameters


class Engine(Protocol):
    """One loaded model. Safe from any thread; many queries at once. Raises EngineError's leaves only."""

    @property
    def info(self) -> EngineInfo:
        """What the loaded model is."""
        ...

    def stream(self, request: Request) -> Generation:
        """Queue the request and return its tokens-to-be at once.

        Raises ContextOverflow when the prompt does not fit, QueueFull when too many wait, ModelUnsupported
        for what the engine cannot do (images). Later failures arrive through the Generation, which the
        caller closes.
        """
        ...

    def score(
        self,
        prompt: str,
        continuations: Sequence[str],
        *,
        cancelled: Callable[[], bool] = lambda: False,
        on_state: OnState | None = None,
        adapter: str | None = None,
        priority: Priority = "interactive",
    ) -> tuple[float, ...]:
        """The total log-probability (nats) of each continuation's tokens after the plain ``prompt``.

        Raises Cancelled soon after ``cancelled`` has become true. ``on_state`` is given the last layer's
        state at the end of the prompt, if the model gives it. ``adapter`` and ``priority`` as of a Request;
        an engine that has neither need not take them: they are passed on only where they are asked for.
        """
        ...

    def embed(
        self, texts: Sequence[str], *, adapter: str | None = None, priority: Priority = "interactive"
    ) -> "NDArray[np.float32]":
        """One unit vector a text: an array of shape (len(texts), n_embd); keywords as of `score`."""
        ...

    def tokenize(self, text: str, *, special: bool = False) -> tuple[int, ...]:
        """Token ids of ``text``; with ``special`` control tokens in the text are read as such."""
        ...

    def count_prompt(self, request: Request) -> int:
        """How many tokens the request's prompt has after the chat template."""
        ...

    def warm(self, request: Request, *, most_bytes: int) -> Warmed:
        """Compute the head of prompts that begin with the request's messages, and keep it on the disk.

        Prompts that begin with it, also those of later engines with the same weights, need no prefill for
        it. What is kept of all models takes at most ``most_bytes``. Raises ModelUnsupported when the engine
        keeps nothing, DiskFull, and what `stream` raises.
        """
        ...

    def close(self) -> None:
        """Cancel what runs and free the memory; the engine is unusable afterwards."""
        ...


@runtime_checkable
class Throttled(Protocol):
    """An engine that may be told to use fewer threads: on battery, or when it is hot."""

    def limit_threads(self, n_threads: int) -> None:
        """From the next step on at most so many, and at most those that the plan had. Safe from any thread.

        Nothing changes where the number is fixed. It fails silently: the next query tells what is wrong.
        """
        ...
