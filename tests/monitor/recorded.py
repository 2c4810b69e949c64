"""The recorded answers of the default model under tests/data/confidence, as examples."""

import csv
from pathlib import Path
from typing import Literal

import numpy as np

from edgeai.monitor.choices import label_features
from edgeai.monitor.examples import Example, Observation, prompt_key

FOLDER = Path(__file__).parent.parent / "data" / "confidence"
TASKS = ("banking10", "clinc_oos", "headlines", "restaurant4")


def recorded(task: str, *, device: Literal["full", "weaker"] = "full") -> list[Example]:
    """One task's examples in a random order.

    The device is the model behind all few-shot examples ("full"), or behind all or a third of them, whichever
    is right less often ("weaker"); the other one then plays the part of the cloud.
    """
    with (FOLDER / f"{task}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    full, short = (sum(int(row[name]) for row in rows) for name in ("right", "short_right"))
    sides = ("", "short_") if device == "full" or full < short else ("short_", "")
    order = np.random.default_rng(5).permutation(len(rows))
    return [_example(f"{task} {number}", rows[number], *sides) for number in order]


def _example(name: str, row: dict[str, str], device: str, cloud: str) -> Example:
    logprobs = [float(value) for key, value in row.items() if key.startswith(f"{device}logprob_")]
    return Example(
        key=prompt_key(name),
        seen=Observation(features=label_features(logprobs), categories={"label": row[f"{device}answer"]}),
        right=float(row[f"{device}right"]),
        cloud=float(row[f"{cloud}right"]),
        agrees=row[f"{device}answer"] == row[f"{cloud}answer"],
    )
