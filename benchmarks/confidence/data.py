"""The public data and recordings that ``EDGEAI_DATA`` names: read here, judged elsewhere.

The folder holds `routellm` (MMLU and GSM8K with the outcomes of two models, Apache-2.0) and `tiny_cascade`
(outcomes of a 135 M model and of a 0.5 B one on samples of clinc150, banking77, restaurant8k and HEADLINES).
"""

import csv
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

__all__ = ["CASCADE", "Cascade", "Paired", "Side", "cascade", "folder", "gsm8k", "routellm"]

CASCADE = ("clinc_oos", "banking10", "headlines", "slots2")
VARIABLE = "EDGEAI_DATA"


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """One question with the quality of a weak and of a strong model's answer, 0 or 1."""

    prompt: str
    weak: float
    strong: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One model's recorded outcome on one query.

    ``logprobs`` of the labels and ``content_free`` ones of the same labels (nats), for a classification; for
    a generated answer its ``text``, quality ``f1`` and ``tokens`` (logprob, entropy, margin).
    """

    right: bool
    logprobs: tuple[float, ...] = ()
    content_free: tuple[float, ...] = ()
    text: str = ""
    f1: float | None = None
    tokens: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One query of a recorded task: the text of the question, the right answers, and the two sides."""

    text: str
    gold: tuple[str, ...]
    local: Side
    cloud: Side | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cascade:
    """One recorded task. ``labels`` is empty where answers are generated; ``examples`` are (text, answer)."""

    name: str
    labels: tuple[str, ...]
    examples: tuple[tuple[str, str], ...]
    queries: tuple[Query, ...]


def folder() -> Path:
    """The data folder. Ends the program when the variable is not set, or names no folder."""
    value = os.environ.get(VARIABLE)
    if not value:
        sys.exit(
            f"{VARIABLE} is not set. Name the folder of the data, as benchmarks/confidence/data.py says."
        )
    if not Path(value).is_dir():
        sys.exit(f"{VARIABLE} is {value}, which is no folder.")
    return Path(value)


@cache
def routellm(name: Literal["mmlu", "gsm8k"]) -> tuple[Paired, ...]:
    """The questions of RouteLLM's evaluation without those it found in its training data."""
    place = _existing(folder() / "routellm" / name)
    seen = {_words(row["eval_prompt"]) for row in _jsonl(place / "contaminated_prompts.jsonl")}
    rows = [row for file in sorted(place.glob("*.csv")) for row in _csv(file)]
    return tuple(row for row in rows if _words(row.prompt) not in seen)


@cache
def cascade(name: str) -> Cascade:
    """One recorded task of `CASCADE`."""
    place = _existing(folder() / "tiny_cascade")
    head = json.loads((place / f"{name}.prompt.json").read_text("utf-8"))
    labels = tuple(head["labels"] or ())
    shown = tuple(_example(part) for part in head["prefix"].split("\n\n") if part)
    queries = tuple(_query(row, labels) for row in _jsonl(place / f"{name}.jsonl"))
    return Cascade(name=name, labels=labels, examples=shown, queries=queries)


@cache
def gsm8k() -> tuple[tuple[str, str], ...]:
    """The test questions of GSM8K, each with its number."""
    rows = _jsonl(_existing(folder() / "gsm8k") / "test.jsonl")
    return tuple((row["question"], row["answer"].rpartition("####")[2].strip()) for row in rows)


def _example(text: str) -> tuple[str, str]:
    question, _, answer = text.rpartition("\n")
    return _question(question), answer.partition(": ")[2]


def _question(text: str) -> str:
    """The text without the name of its first line; further lines stay as they are."""
    return text.partition(": ")[2]


def _query(row: Mapping[str, Any], labels: tuple[str, ...]) -> Query:
    text = _question(row["prompt_suffix"].rpartition("\n")[0])
    gold = (labels[row["gold"]],) if labels else tuple(row["gold"])
    cloud = row["cloud"]
    return Query(text=text, gold=gold, local=_side(row["local"]), cloud=_side(cloud) if cloud else None)


def _side(value: Mapping[str, Any]) -> Side:
    return Side(
        right=value["correct"],
        logprobs=tuple(value.get("label_logprob", ())),
        content_free=tuple(value.get("content_free_logprob", ())),
        text=value.get("answer", ""),
        f1=value.get("f1"),
        tokens=tuple((step["lp"], step["ent"], step["mar"]) for step in value.get("token_stats", ())),
    )


def _csv(path: Path) -> Iterator[Paired]:
    csv.field_size_limit(1 << 24)
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            prompt, weak, strong = list(row.values())[:3]
            yield Paired(prompt=prompt, weak=float(weak == "True"), strong=float(strong == "True"))


def _jsonl(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]


def _words(text: str) -> str:
    return " ".join(text.split())


def _existing(path: Path) -> Path:
    if not path.is_dir():
        sys.exit(f"{VARIABLE} has no folder {path.name}.")
    return path
