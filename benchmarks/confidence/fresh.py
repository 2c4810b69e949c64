"""More rows of the data behind three tasks, which no score and no promise was chosen by.

Drawn from a seed, without any row of the recorded cascade: HEADLINES (its test file), restaurant8k (one
question a message, of messages that the cascade does not use). The 400 sums have no more like them (the model
gets none of larger numbers right), so arithmetic goes on with all differences of numbers from 1 to 20 and all
products of numbers from 2 to 15.
"""

import csv
import json
import random
import re
from collections.abc import Iterator
from dataclasses import replace

from benchmarks.confidence.data import cascade, folder
from benchmarks.confidence.tasks import Item, Task, task

__all__ = ["FRESH", "fresh"]

FRESH = ("headlines", "slots2", "arithmetic")
N_ROWS = 600
SEED = 20
QUESTIONS = {"time": "the time", "date": "the date", "people": "the number of people"}
SOURCES = {"arithmetic": "made here: differences of two numbers from 1 to 20, products of two from 2 to 15"}
NUMBERS = (
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
DIFFERENCES_OF, PRODUCTS_OF = range(1, 21), range(2, 16)


def fresh(name: str) -> Task:
    """The task of this name, one of `FRESH`, with other rows."""
    rows = {"headlines": _headlines, "slots2": _slots, "arithmetic": _differences_and_products}[name]
    items = sorted(rows(), key=lambda item: item.text)
    random.Random(SEED).shuffle(items)
    found = task(name)
    return replace(found, items=tuple(items[:N_ROWS]), part="fresh", source=SOURCES.get(name, found.source))


def _headlines() -> Iterator[Item]:
    """Those of the three labels. Each once; the file has no other repetitions."""
    old = {_plain(text) for text in _known("headlines")}
    labels = cascade("headlines").labels
    with (folder() / "frugalgpt" / "HEADLINES.test.csv").open(encoding="utf-8", newline="") as file:
        for prompt, label, *_ in csv.reader(file):
            text = re.sub(r"\s*A:\s*$", "", prompt.removeprefix("Q:")).strip()
            if label in labels and _plain(text) not in old:
                yield Item(text=text, gold=(label,))


def _slots() -> Iterator[Item]:
    """One labelled slot of each message; of people also their number is right, as in the cascade."""
    old = {_plain(_message(text)) for text in _known("slots2")}
    found: dict[str, list[Item]] = {}
    for row in json.loads((folder() / "polyai" / "restaurant8k.test.json").read_text("utf-8")):
        said = row["userInput"]["text"]
        for label in row.get("labels", ()):
            span, slot = label["valueSpan"], label["slot"]
            if slot in QUESTIONS and _plain(said) not in old:
                value = said[span.get("startIndex", 0) : span["endIndex"]]
                gold = (value, _number(value)) if slot == "people" else (value,)
                text = f"Message: {said.strip()}\nQuestion: What is {QUESTIONS[slot]}?"
                found.setdefault(_plain(said), []).append(Item(text=text, gold=gold))
    draw = random.Random(SEED)
    for items in found.values():
        yield draw.choice(items)


def _differences_and_products() -> Iterator[Item]:
    for a in DIFFERENCES_OF:
        for b in range(1, a + 1):
            yield Item(text=f"What is {a} - {b}? Answer with the number only.", gold=(str(a - b),))
    for a in PRODUCTS_OF:
        for b in PRODUCTS_OF:
            yield Item(text=f"What is {a} * {b}? Answer with the number only.", gold=(str(a * b),))


def _known(name: str) -> Iterator[str]:
    found = cascade(name)
    yield from (query.text for query in found.queries)
    yield from (text for text, _ in found.examples)


def _message(text: str) -> str:
    return text.rpartition("\nQuestion:")[0].removeprefix("Message:")


def _number(text: str) -> str:
    """The first number of a text, in digits; the text itself when it has none."""
    match = re.search(rf"\d+|\b(?:{'|'.join(NUMBERS)})\b", text.casefold())
    if match is None:
        return text
    return match.group() if match.group().isdigit() else str(NUMBERS.index(match.group()) + 1)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
