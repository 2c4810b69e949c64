"""Where each kind of work is done, while a model is loaded."""

from dataclasses import replace

from edgeai.engines import EngineInfo, Step, Work

__all__ = ["Whereabouts"]


class Whereabouts:
    """The steps of `EngineInfo`, which change when a device fails. Safe from any thread."""

    def __init__(self, steps: tuple[Step, ...]) -> None:
        self.steps = steps

    def give_up(self, work: Work, provider: str, why: str) -> None:
        """From now on it is the processor's."""
        taken = Step(work=work, provider=provider)
        steps = (replace(step, why=why) if step == taken else step for step in self.steps)
        self.steps = (*steps, Step(work=work, provider="cpu"))

    def told(self, info: EngineInfo) -> EngineInfo:
        """What the loaded model is, as of now."""
        return replace(info, steps=self.steps)
