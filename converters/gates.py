"""What a package must keep of its source to be one: bounds, and what was found against them."""

from collections.abc import Iterator
from dataclasses import dataclass

from edgeai.converters.divergence import Divergence
from edgeai.converters.formats import Care, Format
from edgeai.converters.timing import Speed

__all__ = ["Gate", "Gates", "check"]

_BOUNDS: dict[Care, tuple[tuple[float, float, float], ...]] = {
    # parameters up to, KL in nats a token, agreement: small models lose more at the same number of bits
    "exact": ((float("inf"), 0.005, 0.98),),
    "eight": ((3e8, 0.03, 0.92), (float("inf"), 0.02, 0.94)),
    "five": ((3e8, 0.15, 0.80), (1e9, 0.10, 0.84), (float("inf"), 0.06, 0.88)),
    "four": ((3e8, 0.45, 0.62), (1e9, 0.25, 0.72), (float("inf"), 0.12, 0.80)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """Bounds on a package. None takes the default for the format and the size of the model, if any.

    ``max_kl`` in nats a token (mean), ``min_agreement`` a share, ``max_size`` in bytes of all files,
    ``max_memory`` in bytes while it runs, ``min_speed`` in decoded tokens a second on this machine, of an
    encoder in tokens that it reads a second.
    """

    max_kl: float | None = None
    min_agreement: float | None = None
    max_size: int | None = None
    max_memory: int | None = None
    min_speed: float | None = None

    def filled(self, form: Format, parameters: int, *, quantized: bool = False) -> "Gates":
        """The same with the defaults for this format and so many parameters.

        From a ``quantized`` source nothing can be exact: engines round the inputs of such weights, each
        in its own way.
        """
        care: Care = "eight" if quantized and form.care == "exact" else form.care
        _, kl, agreement = next(row for row in _BOUNDS[care] if parameters <= row[0])
        return Gates(
            max_kl=kl if self.max_kl is None else self.max_kl,
            min_agreement=agreement if self.min_agreement is None else self.min_agreement,
            max_size=self.max_size,
            max_memory=self.max_memory,
            min_speed=self.min_speed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One bound and what was found; ``reason`` says in words what is wrong, None where nothing is.

    ``note`` is what else is to know about what was measured.
    """

    name: str
    found: float | str | None
    bound: float | str
    reason: str | None
    note: str | None = None

    @property
    def passed(self) -> bool:
        """Whether it was kept."""
        return self.reason is None


def check(
    gates: Gates, divergence: Divergence | None, size: int, speed: Speed | None, faults: dict[str, str | None]
) -> tuple[Gate, ...]:
    """All gates in order. ``faults`` are what must be equal, by name, with what is wrong about it."""
    equal = (
        Gate(name=name, found="differs" if fault else "same", bound="same", reason=fault)
        for name, fault in faults.items()
    )
    return (*equal, *_measured(gates, divergence, size, speed))


def _measured(gates: Gates, divergence: Divergence | None, size: int, speed: Speed | None) -> Iterator[Gate]:
    kl = None if divergence is None else divergence.kl_mean
    same = None if divergence is None else divergence.agreement
    does = "reads" if speed is not None and speed.decode_tps is None else "decodes"
    rows = (
        ("kl", kl, gates.max_kl, True, "its next tokens are others: KL {:.4f} nats, at most {:.4f}"),
        ("agreement", same, gates.min_agreement, False, "it agrees on {:.1%} of favourites, not {:.1%}"),
        ("size", float(size), gates.max_size, True, "it has {:,.0f} bytes, at most {:,.0f} are wanted"),
        (
            "memory", None if speed is None else float(speed.resident_bytes), gates.max_memory, True,
            "it takes {:,.0f} bytes of memory, at most {:,.0f} are wanted",
        ),
        (
            "speed", None if speed is None else speed.pace, gates.min_speed, False,
            f"it {does} {{:.1f}} tokens a second, at least {{:.1f}} are wanted",
        ),
    )  # fmt: skip
    for name, found, bound, upper, words in rows:
        if bound is not None:
            yield _gate(name, found, float(bound), words, upper=upper)


def _gate(name: str, found: float | None, bound: float, words: str, *, upper: bool) -> Gate:
    if found is None:
        return Gate(name=name, found=None, bound=bound, reason=f"its {name} could not be measured")
    kept = found <= bound if upper else found >= bound  # not a number keeps nothing
    return Gate(name=name, found=found, bound=bound, reason=None if kept else words.format(found, bound))
