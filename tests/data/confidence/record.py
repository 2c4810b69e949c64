"""Record the files in this folder again: the default model's answers, as numbers and without any text.

    EDGEAI_DATA=… python tests/data/confidence/record.py

Each query is scored twice: behind all few-shot examples of its prompt, and behind the first third of them.
"""

import csv
import json
import os
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from edgeai.engines import Engine
from edgeai.load import Wanted, open_model
from edgeai.monitor.choices import choose_strength, corrected

HERE = Path(__file__).parent
SEED = 7
N = 400
N_CHOOSING = 100


class Task(NamedTuple):
    """Few-shot examples, the labels, and (prompt, place of the right label) rows."""

    shots: tuple[str, ...]
    empty: str
    labels: tuple[str, ...]
    rows: tuple[tuple[str, int], ...]


def cascade(data: Path, name: str) -> Task:
    """A task of the folder tiny_cascade."""
    about = json.loads((data / "tiny_cascade" / f"{name}.prompt.json").read_text("utf-8"))
    lines = (data / "tiny_cascade" / f"{name}.jsonl").read_text("utf-8").splitlines()
    rows = tuple((row["prompt_suffix"], row["gold"]) for row in map(json.loads, lines))
    first, second = rows[0][0].split(":")[0], rows[0][0].rsplit("\n", 1)[1]
    shots = tuple(f"{shot}\n\n" for shot in about["prefix"].strip().split("\n\n"))
    return Task(shots, f"{first}: N/A\n{second}", tuple(about["labels"]), rows)


def restaurant(data: Path) -> Task:
    """Which detail of a booking a message gives, from the restaurant8k messages that give exactly one."""
    messages = json.loads((data / "polyai" / RESTAURANT).read_text("utf-8"))
    labels = ("time", "date", "people", "name")
    names = {"first_name": "name", "last_name": "name"}
    found = {}
    for message in messages:
        slots = {names.get(label["slot"], label["slot"]) for label in message.get("labels", ())}
        if len(slots) == 1:
            found[message["userInput"]["text"]] = labels.index(slots.pop())
    pool = sorted(found.items())
    random.Random(SEED).shuffle(pool)
    shots = [next(row for row in pool[part::4] if row[1] == part % 4) for part in range(8)]
    rest = [(f"Message: {text}\nDetail:", gold) for text, gold in pool if (text, gold) not in shots]
    return Task(
        tuple(f"Message: {text}\nDetail: {labels[gold]}\n\n" for text, gold in shots),
        "Message: N/A\nDetail:", labels, tuple(rest[:N]),
    )  # fmt: skip


RESTAURANT = "restaurant8k.test.json"


def scored(engine: Engine, task: Task, n_shots: int) -> Iterator[list[float]]:
    """The labels' log-probabilities for the content-free input and then for every row."""
    head, tails = "".join(task.shots[:n_shots]), [f" {label}" for label in task.labels]
    for prompt in (task.empty, *(prompt for prompt, _ in task.rows)):
        yield [round(value, 3) for value in engine.score(head + prompt, tails)]


def columns(task: Task, found: Sequence[list[float]]) -> Iterator[list[object]]:
    """Right or not, the answer's place, the log-probabilities after the chosen correction."""
    free, rows = found[0], found[1:]
    golds = [gold for _, gold in task.rows]
    choosing = [(values, free, gold) for values, gold in zip(rows, golds, strict=True)][:N_CHOOSING]
    strength = choose_strength(choosing)
    for values, gold in zip(rows, golds, strict=True):
        fixed = corrected(values, free, strength)
        answer = max(range(len(fixed)), key=fixed.__getitem__)
        yield [int(answer == gold), answer, *(f"{value:.3f}" for value in fixed)]


def main() -> None:
    """Write one file a task."""
    if "EDGEAI_DATA" not in os.environ:
        sys.exit("EDGEAI_DATA must name the folder with the data sets")
    data = Path(os.environ["EDGEAI_DATA"])
    tasks = {name: cascade(data, name) for name in ("clinc_oos", "banking10", "headlines")}
    tasks["restaurant4"] = restaurant(data)
    engine = open_model("smollm2-135m-instruct", "auto", Wanted(n_ctx=2048)).engine
    for name, task in tasks.items():
        n = len(task.shots)
        full, short = (list(columns(task, list(scored(engine, task, shots)))) for shots in (n, n // 3))
        with (HERE / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            logprobs = [f"logprob_{place}" for place in range(len(task.labels))]
            names = ["right", "answer", *logprobs]
            writer.writerow([*names, *(f"short_{name}" for name in names)])
            writer.writerows([*one, *other] for one, other in zip(full, short, strict=True))
    engine.close()


if __name__ == "__main__":
    main()
