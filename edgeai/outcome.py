"""What the two sides of a query have come to: the material an Answer is made of."""

from dataclasses import dataclass, field, replace
from enum import Enum, auto

from edgeai.cloud import Cloud
from edgeai.cloud.tiers import tiers_of
from edgeai.economics import Price
from edgeai.engines import EngineInfo
from edgeai.engines.generation import Finished
from edgeai.errors import ContextOverflow, EdgeError, EngineError, ModelUnsupported
from edgeai.monitor import Monitor
from edgeai.policy import Policy
from edgeai.types import Answer, Reason, Timing, Usage


class Side(Enum):
    """How far one side has come."""

    IDLE = auto()
    RUNNING = auto()
    ENDED = auto()
    FAILED = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """The names that go into the answer, and the cloud's price; ``above`` are those of stronger clouds."""

    device_model: str
    engine: str
    cloud_model: str = ""
    endpoint: str | None = None
    price: Price | None = None
    above: "tuple[Labels, ...]" = ()
    device: str | None = None
    passed_over: tuple[str, ...] = ()

    def computed(self, answer: Answer, finished: Finished | None) -> Answer:
        """The device's answer, with what has computed it: as of its end, if it has come to one."""
        told = self if finished is None or finished.device is None else finished
        return replace(answer, device=told.device, passed_over=told.passed_over)

    def climbed(self) -> "Labels":
        """The labels with the next cloud."""
        following, *others = self.above
        return replace(following, above=tuple(others))

    def cost(self, usage: Usage, sent: "Sent", *, on_device: bool) -> float | None:
        """US dollars of the answer: nothing while no byte left, unknown when the price or the counts are."""
        if not sent.n_bytes:
            return 0.0
        return None if on_device or self.price is None else self.price.cost(usage)


def labels_of(info: EngineInfo, cloud: Cloud | None, adapter: str | None) -> Labels:
    """The names for a query on this engine, with this cloud; the model's tells the adapter, too."""
    device_model = info.model if adapter is None else f"{info.model}+{adapter}"
    own = Labels(
        device_model=device_model, engine=info.engine, device=info.device, passed_over=info.passed_over
    )
    if cloud is None:
        return own
    first, *above = (
        replace(own, cloud_model=one.model, endpoint=one.endpoint, price=one.price) for one in tiers_of(cloud)
    )
    return replace(first, above=tuple(above))


@dataclass(slots=True)
class Sent:
    """How often the query left for each of the clouds, and its bytes, all tries together."""

    n_bytes: int = 0
    times: list[int] = field(default_factory=lambda: [1])
    _n_body: int = 0

    @property
    def tier(self) -> int:
        """Which of several clouds is asked, from 0."""
        return len(self.times) - 1

    def begin(self, n_bytes: int) -> None:
        """So many bytes are about to leave for the cloud."""
        self._n_body = n_bytes
        self.n_bytes += n_bytes

    def count(self, times: int) -> None:
        """They left so many times."""
        self.n_bytes += (times - self.times[-1]) * self._n_body
        self.times[-1] = times

    def climb(self) -> None:
        """The next cloud is asked."""
        self.times.append(1)
        self._n_body = 0


@dataclass(slots=True, kw_only=True)
class Track:
    """What one side has said so far. ``first_s`` is when it first spoke, in the run's clock."""

    side: Side = Side.IDLE
    text: list[str] = field(default_factory=list)
    first_s: float | None = None
    error: EdgeError | None = None


def leaves_for(error: EdgeError) -> Reason:
    """Why a query leaves whose device side failed with this error."""
    if isinstance(error, ContextOverflow):
        return Reason.CONTEXT_OVERFLOW
    return Reason.UNSUPPORTED if isinstance(error, ModelUnsupported) else Reason.ENGINE_ERROR


def is_reason(error: EdgeError, policy: Policy) -> bool:
    """Whether the device's error is one to leave for: a mistake of the caller's is none."""
    if isinstance(error, ContextOverflow):
        return policy.when_full == "escalate"
    return isinstance(error, EngineError | ModelUnsupported)


def device_usage(monitor: Monitor, finished: Finished | None) -> Usage:
    """The device's token counts; the prompt's are known once the generation has ended."""
    return Usage(
        prompt_tokens=finished.n_prompt if finished else None,
        completion_tokens=monitor.n_tokens,
        cached_tokens=finished.n_cached if finished else None,
    )


def timing(track: Track, monitor: Monitor, finished: Finished | None, t0: float, now: float) -> Timing:
    """Times of one side, from the call at ``t0``; speeds only for the device, when it has ``finished``."""
    n, decode_s = monitor.n_tokens, monitor.decode_s
    prefilled = finished.n_prompt - finished.n_cached if finished else 0
    return Timing(
        ttft_s=None if track.first_s is None else track.first_s - t0,
        total_s=now - t0,
        decode_tps=(n - 1) / decode_s if finished and n > 1 and decode_s else None,
        prefill_tps=prefilled / finished.prefill_s if finished and finished.prefill_s else None,
    )
