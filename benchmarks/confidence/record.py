"""The device's answers with all that was seen of them, asked once and kept in the cache folder.

A file for each task, engine and commit-independent setting: a recording that was interrupted goes on where it
stopped, and one under another binding begins anew.
"""

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.confidence.tasks import Item, Task
from edgeai.edge import Edge
from edgeai.monitor.choices import choose_strength
from edgeai.monitor.contract import Binding
from edgeai.monitor.examples import Example, Observation, prompt_key
from edgeai.monitor.probe import pack
from edgeai.monitor.watch import label_observation
from edgeai.observe import Observed, observe
from edgeai.paths import cache_dir
from edgeai.types import LabelScores

__all__ = ["Recording", "examples", "record", "strength"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What the device answered to one item. ``labels`` are the measurements of a classification."""

    item: Item
    text: str
    seen: Observation
    labels: LabelScores | None
    n_tokens: int


def ask(edge: Edge, task: Task, item: Item) -> Observed:
    """Ask the device one item of the task, the way a contract for it will be used."""
    if task.method == "choose":
        return observe(
            edge, item.text, method="choose", choices=task.labels, examples=task.examples, task=task.name
        )
    return observe(edge, task.prompt(item), task=task.name, max_tokens=task.max_tokens)


def record(
    edge: Edge, task: Task, *, most: int | None = None, say: Callable[[str], None] = print
) -> tuple[Binding, tuple[Recording, ...]]:
    """The recordings of the task's items, in their order, asked now where they are not in the cache."""
    items = task.items[:most]
    binding = ask(edge, task, items[0]).binding
    path = _file(task, edge.info.engine)
    known = dict(_read(path, binding))
    with path.open("a", encoding="utf-8") as file:
        if not known:
            file.write(json.dumps({"binding": asdict(binding)}) + "\n")
        for number, item in enumerate(items):
            key = prompt_key(item.text)
            if key in known:
                continue
            known[key] = _encode(ask(edge, task, item))
            file.write(json.dumps({"key": key, **known[key]}) + "\n")
            file.flush()
            if number % 100 == 0:
                say(f"{task.name} on {edge.info.engine}: {number} of {len(items)}")
    return binding, tuple(_decode(item, known[prompt_key(item.text)]) for item in items)


def strength(task: Task, rows: tuple[Recording, ...]) -> float | None:
    """The strength of contextual calibration with the most right answers on these rows; None: no labels."""
    if not task.labels:
        return None
    return choose_strength(
        (row.labels.logprobs, row.labels.content_free, task.labels.index(row.item.gold[0]))
        for row in rows
        if row.labels is not None
    )


def examples(
    task: Task, rows: tuple[Recording, ...], *, strength: float | None, agrees: Callable[[str, str], bool]
) -> tuple[Example, ...]:
    """The recordings with their outcomes, a classification's at this strength (None: as it was answered)."""
    return tuple(_example(task, row, strength, agrees) for row in rows)


def _example(
    task: Task, row: Recording, strength: float | None, agrees: Callable[[str, str], bool]
) -> Example:
    seen, answer = row.seen, row.text
    if row.labels is not None and strength is not None:
        seen = label_observation(seen, task.labels, replace(row.labels, strength=strength))
        answer = seen.categories["label"] or ""
    cloud = row.item.cloud
    return Example(
        key=prompt_key(row.item.text),
        seen=seen,
        right=task.right(answer, row.item.gold),
        cloud=cloud[1] if cloud else None,
        agrees=agrees(answer, cloud[0]) if cloud else None,
    )


def _file(task: Task, engine: str) -> Path:
    folder = cache_dir() / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{task.name}.{task.part}" if task.part else task.name
    return folder / f"{name}.{engine}.jsonl"


def _read(path: Path, binding: Binding) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of the file, none (and no file) when it is of another binding."""
    if not path.exists():
        return
    head, *lines = path.read_text("utf-8").splitlines() or [""]
    if not head or json.loads(head) != {"binding": asdict(binding)}:
        path.unlink()
        return
    for line in lines:
        row = json.loads(line)
        yield row.pop("key"), row


def _encode(found: Observed) -> dict[str, Any]:
    seen = found.seen
    return {
        "text": found.answer.text,
        "n_tokens": found.answer.usage.completion_tokens or 0,
        "labels": None if found.labels is None else asdict(found.labels),
        "features": dict(seen.features),
        "categories": dict(seen.categories),
        "prefixes": {str(at): dict(prefix) for at, prefix in seen.prefixes.items()},
        "words": {str(at): count for at, count in seen.words.items()},
        "hidden": None if seen.hidden is None else pack(seen.hidden),
    }


def _decode(item: Item, row: Mapping[str, Any]) -> Recording:
    labels, hidden = row["labels"], row["hidden"]
    return Recording(
        item=item,
        text=row["text"],
        n_tokens=row["n_tokens"],
        labels=labels
        and LabelScores(
            logprobs=tuple(labels["logprobs"]),
            content_free=tuple(labels["content_free"] or ()) or None,
            strength=labels["strength"],
        ),
        seen=Observation(
            features=row["features"],
            categories=row["categories"],
            prefixes={int(at): prefix for at, prefix in row["prefixes"].items()},
            words={int(at): count for at, count in row["words"].items()},
            hidden=None if hidden is None else np.frombuffer(base64.b64decode(hidden), "<f4"),
        ),
    )
