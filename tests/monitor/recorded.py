"""The recorded answers of the default model under tests/data/confidence, as examples."""

import csv
from pathlib import Path

import numpy as np

from edgeai.monitor.choices import label_features
from edgeai.monitor.examples import Example, Observation, prompt_key

FOLDER = Path(__file__).parent.parent / "data" / "confidence"
TASKS = ("banking10", "clinc_oos", "headlines", "restaurant4")


def recorded(task: str, *, device: str = "full") -> list[Example]:
    """One task's examples in a random order.

    The device is the model behind all few-shot examples ("full") or behind a third of them ("short"); the
    part of the cloud is played by the model behind all of them.
    """
    with (FOLDER / f"{task}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    order = np.random.default_rng(5).permutation(len(rows))
    return [_example(task, int(number), rows[number], device) for number in order]


def _example(task: str, number: int, row: dict[str, str], device: str) -> Example:
    head = "" if device == "full" else "short_"
    logprobs = [float(value) for name, value in row.items() if name.startswith(f"{head}logprob_")]
    return Example(
        key=prompt_key(f"{task} {number}"),
        seen=Observation(features=label_features(logprobs), categories={"label": row[f"{head}answer"]}),
        right=float(row[f"{head}right"]),
        cloud=float(row["right"]),
        agrees=row["answer"] == row[f"{head}answer"],
    )
