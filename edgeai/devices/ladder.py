"""Which execution provider a kind of work gets: the profile's order, down to the first that was seen to work.

The order is ours: an NPU rarely decodes faster than the CPU, but takes a third of the energy, so that the
goal and the kind of work decide. ONNX Runtime's own policies know neither, and fail on a broken provider.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edgeai.devices.profiles import Goal, Profile
from edgeai.devices.providers import Verdict

__all__ = ["Ladder", "Step", "ranked"]

_log = logging.getLogger("edgeai.devices")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A provider that was considered; ``why`` it was passed over, None for the one that is taken."""

    provider: str
    why: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """The providers that were considered, in order; the last one is taken."""

    steps: tuple[Step, ...]

    @property
    def chosen(self) -> str:
        """The provider that is taken."""
        return self.steps[-1].provider


def ranked(
    work: Literal["prefill", "decode", "embed"], goal: Goal, profile: Profile, verdicts: Mapping[str, Verdict]
) -> Ladder:
    """The steps down to the first provider that works, which may be the CPU; each is logged.

    ``verdicts``: by provider; one without a verdict was not tried and is passed over.
    """
    steps: list[Step] = []
    for provider in profile.providers.get(goal, {}).get(work, ()):
        if provider == "cpu":
            break
        why = _objection(verdicts.get(provider))
        steps.append(Step(provider=provider, why=why))
        if why is None:
            return Ladder(steps=tuple(steps))
        _log.info("%s is passed over for %s: %s", provider, work, why)
    return Ladder(steps=(*steps, Step(provider="cpu")))


def _objection(verdict: Verdict | None) -> str | None:
    if verdict is None:
        return "not tried with this model"
    if verdict.state == "works":
        return None
    return f"{verdict.state}: {verdict.why}" if verdict.why else verdict.state
