"""Ask every query once and write down what became of it: the device watched as it serves, and the cloud."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgeai.calibrate.cloud import Estimate, ask_cloud, estimate, judge
from edgeai.calibrate.data import Row
from edgeai.calibrate.scorers import JUDGE, scorer
from edgeai.calibrate.task import Task
from edgeai.calibrate.work import Outcome, Work, row_key
from edgeai.cloud import Cloud
from edgeai.edge import Edge
from edgeai.errors import ConfigError, ContextOverflow
from edgeai.monitor.contract import Binding
from edgeai.monitor.examples import Example, Observation
from edgeai.observe import observe
from edgeai.scorers import Reference
from edgeai.types import Answer, CommonOptions, LabelScores

__all__ = [
    "Progress",
    "Sides",
    "Watch",
    "Watched",
    "bill",
    "collect",
    "judged_by",
    "scorer_name",
    "watch_row",
    "watching",
]

Progress = Callable[[int, int], None]
"""Told how many queries are done, and how many there are."""


class Watched(Protocol):
    """What was seen of one answer of the device, and what a contract of such answers is bound to."""

    @property
    def answer(self) -> Answer:
        """The answer itself."""
        ...

    @property
    def seen(self) -> Observation:
        """What the score is made of."""
        ...

    @property
    def binding(self) -> Binding:
        """The conditions it was made under."""
        ...

    @property
    def labels(self) -> LabelScores | None:
        """The measurements of a classification."""
        ...


Watch = Callable[[str], Watched]
"""Asks the device one prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """Who answers and who judges. ``cloud`` is the one that is asked too, None when nobody is.

    An answer agrees with the cloud's when the scorer gives it ``good`` or more beside that as the reference.
    """

    edge: Edge
    task: Task
    watch: Watch
    scorer: str
    good: float
    cloud: Cloud | None

    def grade(self, prompt: str, answer: str, reference: Reference) -> float:
        """The quality of an answer from 0 to 1."""
        if self.scorer == JUDGE:
            return judge(self.edge, prompt, answer, reference)
        return scorer(self.scorer)(answer, reference)


def watching(edge: Edge, task: Task) -> Watch:
    """The device under observation, on the path that serves."""

    def watch(text: str) -> Watched:
        options: CommonOptions = {"task": task.name}
        if task.max_tokens is not None:
            options["max_tokens"] = task.max_tokens
        if task.method != "choose":
            options["temperature"] = task.temperature
        return observe(
            edge,
            task.prompt(text),
            method=task.method,
            choices=task.choices,
            examples=task.examples if task.method == "choose" else (),
            schema=task.schema,
            **options,
        )

    return watch


def bill(sides: Sides, cloud: Cloud, rows: Sequence[Row]) -> Estimate:
    """What asking the cloud about these rows will cost."""
    judged = sides.scorer == JUDGE
    labelled = any(row.reference is not None for row in rows)
    asked = sides.cloud is not None
    verdicts = judged * ((1 + asked) * labelled + asked)  # of both answers, and of their agreement
    return estimate(cloud, sides.task, rows, answers=asked, verdicts=verdicts)


def collect(
    sides: Sides, rows: Sequence[Row], work: Work, *, first: Watched, progress: Progress
) -> tuple[Outcome, ...]:
    """The outcomes of all rows, in their order; only those that ``work`` does not have are asked.

    ``first`` is what was seen of the first row. Raises ConfigError when the binding changes on the way, and
    for a prompt that does not fit into the context; and what asking raises: what is done by then is kept.
    """
    keys = [row_key(row) for row in rows]
    n_done = sum(key in work.done for key in keys)
    progress(n_done, len(rows))
    for place, (row, key) in enumerate(zip(rows, keys, strict=True)):
        if key not in work.done:
            seen = first if place == 0 else watch_row(sides, row)
            _check_binding(row, first.binding, seen.binding)
            work.add(key, _outcome(sides, row, seen))
            progress(n_done := n_done + 1, len(rows))
    return tuple(work.done[key] for key in keys)


def watch_row(sides: Sides, row: Row) -> Watched:
    """The device's answer to a row. Raises ConfigError that names its line when the prompt is too long."""
    try:
        return sides.watch(row.prompt)
    except ContextOverflow as error:
        raise ConfigError(
            f"Line {row.line} does not fit into the context",
            why=error.what,
            remedy="Leave it out, or raise n_ctx",
        ) from error


def judged_by(name: str, good: float) -> str:
    """How a contract names its scorer, and the quality from which an answer was right, unless that is full.

    Audits at run time know the plain names only, and say so of all others.
    """
    return scorer_name(name) if good == 1 else f"{scorer_name(name)} from {good:g}"


def scorer_name(name: str) -> str:
    """How a contract names its scorer: a callable with the hash of its file, since that may change."""
    if ":" not in name:
        return name
    function = scorer(name)
    file = getattr(getattr(function, "__wrapped__", function), "__code__", None)
    if file is None or not Path(file.co_filename).is_file():
        return name
    return f"{name} {hashlib.sha256(Path(file.co_filename).read_bytes()).hexdigest()[:12]}"


def _outcome(sides: Sides, row: Row, seen: Watched) -> Outcome:
    said = seen.answer.text
    remote = None if sides.cloud is None else ask_cloud(sides.edge, sides.task, row.prompt)
    right = cloud = agrees = None
    if row.reference is not None:
        right = sides.grade(row.prompt, said, row.reference)
        cloud = None if remote is None else sides.grade(row.prompt, remote.text, row.reference)
    if remote is not None:
        agrees = sides.grade(row.prompt, said, remote.text) >= sides.good
    example = Example(key=row.key, seen=seen.seen, right=right, cloud=cloud, agrees=agrees)
    return _measured(example, seen, remote, is_label=sides.task.method == "choose")


def _measured(example: Example, seen: Watched, remote: Answer | None, *, is_label: bool) -> Outcome:
    local = seen.answer
    return Outcome(
        example=example,
        device_s=local.timing.total_s,
        device_tokens=local.usage.completion_tokens,
        cloud_s=None if remote is None else remote.timing.total_s,
        cloud_usd=None if remote is None else remote.cost_usd,
        prompt_tokens=None if remote is None else remote.usage.prompt_tokens,
        completion_tokens=None if remote is None else remote.usage.completion_tokens,
        labels=seen.labels,
        cloud_label=remote.text if remote is not None and is_label else None,
    )


def _check_binding(row: Row, wanted: Binding, found: Binding) -> None:
    if found != wanted:
        raise ConfigError(
            f"Line {row.line} was answered under other conditions than the first",
            why=f"{wanted.matches(found) or 'the binding differs'}",
            remedy="Let nothing change the model or its settings during a calibration",
        )
