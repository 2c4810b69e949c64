"""A device whose answers were recorded, and data to ask it about."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgeai.calibrate.collect import Watch
from edgeai.monitor.contract import Binding
from edgeai.monitor.examples import Observation, prompt_key
from edgeai.monitor.prompts import hashed_words
from edgeai.types import Answer, LabelScores, Reason, Timing, Usage
from tests.monitor.recorded import FOLDER, recorded

BINDING = Binding(
    method="choose", task=None, engine="fake", weights="w" * 64, template=None, head=None,
    temperature=0.0, max_tokens=512,
)  # fmt: skip
LABELS = 10


@dataclass(frozen=True)
class Seen:
    """What was recorded of one answer."""

    answer: Answer
    seen: Observation
    binding: Binding
    labels: LabelScores | None = None


def answers(task: str) -> dict[str, str]:
    """What the device said to each prompt of a recorded task."""
    with (FOLDER / f"{task}.csv").open(encoding="utf-8", newline="") as file:
        return {f"{task} {number}": row["answer"] for number, row in enumerate(csv.DictReader(file))}


def watcher(task: str, *, binding: Binding = BINDING, stop_after: int | None = None) -> Watch:
    """Watches the recorded device; after so many answers Ctrl-C is pressed. ``asked`` lists the prompts."""
    seen = {example.key: example.seen for example in recorded(task)}
    said = answers(task)
    left = [stop_after]

    def watch(prompt: str) -> Seen:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] = None if left[0] is None else left[0] - 1
        before = {"prompt_log_length": math.log(len(prompt)), "prompt_digits": 1.0}
        known = seen[prompt_key(prompt)]
        known = replace(known, features={**known.features, **before}, words=hashed_words(prompt))
        return Seen(answer=answer(said[prompt]), seen=known, binding=binding)

    return watch


def answer(text: str) -> Answer:
    """An answer of the device."""
    return Answer(
        text=text, source="device", model="fake", reason=Reason.UNJUDGED, explanation="",
        usage=Usage(completion_tokens=1), timing=Timing(total_s=0.1), cost_usd=0.0,
    )  # fmt: skip


def write(path: Path, task: str, *, n: int | None = None, labels: bool = True) -> Path:
    """The task as JSONL; a wrong answer's reference is another label."""
    said = answers(task)
    with (FOLDER / f"{task}.csv").open(encoding="utf-8", newline="") as file:
        right = [row["right"] == "1" for row in csv.DictReader(file)]
    choices: dict[str, object] = {"choices": [str(label) for label in range(LABELS)]}
    rows: Sequence[Mapping[str, object]] = [
        {"prompt": prompt, **choices}
        | ({"reference": text if good else str((int(text) + 1) % LABELS)} if labels else {})
        for (prompt, text), good in zip(said.items(), right, strict=True)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:n]), "utf-8")
    return path
