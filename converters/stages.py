"""Where a conversion is, for whoever waits for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["Progress", "Stage", "Step", "Tell", "counted"]

Step = Literal["hash", "convert", "reference", "prove", "measure"]

Progress = Callable[[int, int], None]
"""Hears how much is done, and of how much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Where a conversion is: ``done`` of ``total`` layers or runs (convert), tokens or texts (prove).

    0 of 0: it cannot be said. ``part``: a search is at this format of so many.
    """

    step: Step
    what: str
    done: int = 0
    total: int = 0
    part: tuple[int, int] = (1, 1)


Tell = Callable[[Stage], None]


def counted(progress: Progress, total: int) -> Callable[[], None]:
    """What to call after each of ``total`` pieces of work; the progress hears of all from the first on."""
    done = 0
    progress(0, total)

    def step() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    return step
