"""What the two sides of a query have come to: the material an Answer is made of."""

from dataclasses import dataclass, field
from enum import Enum, auto

from edgeai.economics import Price
from edgeai.engines.generation import Finished
from edgeai.errors import EdgeError
from edgeai.monitor import Monitor
from edgeai.types import Timing, Usage


class Side(Enum):
    """How far one side has come."""

    IDLE = auto()
    RUNNING = auto()
    ENDED = auto()
    FAILED = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """The names that go into the answer, and the cloud's price."""

    device_model: str
    engine: str
    cloud_model: str = ""
    endpoint: str | None = None
    price: Price | None = None


@dataclass(slots=True, kw_only=True)
class Track:
    """What one side has said so far. ``first_s`` is when it first spoke, in the run's clock."""

    side: Side = Side.IDLE
    text: list[str] = field(default_factory=list)
    first_s: float | None = None
    error: EdgeError | None = None


def price_of(usage: Usage, labels: Labels, *, sent: bool, on_device: bool) -> float | None:
    """US dollars: nothing while no byte left, unknown when the price or the counts are."""
    if not sent:
        return 0.0
    return None if on_device or labels.price is None else labels.price.cost(usage)


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
