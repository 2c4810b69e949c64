"""Which packages no other beats: in size, in nearness to the source, in speed as far as it can be told."""

from dataclasses import dataclass

__all__ = ["ABOUT", "Point", "beats"]

ABOUT = 0.8
"""Of another speed: speeds differ as much from one run to the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A package's bytes, its KL from the source in nats a token, and its tokens a second.

    ``pace`` None: not measured, or while other programs computed, so that it compares with none.
    """

    size: float
    kl: float
    pace: float | None


def beats(one: Point, other: Point) -> bool:
    """Whether ``one`` is nowhere worse, and somewhere better; speeds that are about equal are."""
    faster = slower = False
    if one.pace is not None and other.pace is not None:
        faster, slower = ABOUT * one.pace > other.pace, one.pace < ABOUT * other.pace
    as_good = one.size <= other.size and one.kl <= other.kl and not slower
    return as_good and (one.size < other.size or one.kl < other.kl or faster)
