"""The tasks: what the device is asked, what is right, and what the recorded cloud said.

Prompts, examples and labels are those of the data; only arithmetic is made here, from a seed. `choose` is
asked for labels, with its default settings, and `ask` for everything else; examples of those are turns.
"""

import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from benchmarks.confidence.data import cascade, gsm8k
from benchmarks.confidence.recorded import cloud_answers, same_words
from edgeai.types import Message, Prompt

__all__ = ["TASKS", "Item", "Task", "f1", "task"]

TASKS = ("clinc_oos", "banking10", "headlines", "slots2", "arithmetic")
HIGHEST = 20
SEED, TRIAL_SEED, N_TRIED = 4, 1, 40
STEPS_SEED, N_PROBLEMS, N_WORKED = 7, 600, 4
NAMES = ("Anna", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Henry", "Ida", "Jack")
THINGS = ("apples", "pens", "coins", "books", "stamps", "eggs", "shells", "marbles")


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One query: its text, the right answers, and the recorded cloud's answer with its quality, if any."""

    text: str
    gold: tuple[str, ...]
    cloud: tuple[str, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task. ``right`` judges an answer by the right ones: 1 or 0. ``source`` names data and licence.

    ``part`` tells apart several sets of items of one task, whose recordings are kept apart.
    """

    name: str
    method: Literal["choose", "ask"]
    items: tuple[Item, ...]
    source: str
    right: Callable[[str, tuple[str, ...]], float]
    labels: tuple[str, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()
    max_tokens: int = 24
    part: str = ""

    def prompt(self, item: Item) -> Prompt:
        """What is asked."""
        if self.method == "choose" or not self.examples:
            return item.text
        turns = [(Message("user", text), Message("assistant", answer)) for text, answer in self.examples]
        return [*(message for turn in turns for message in turn), Message("user", item.text)]


def task(name: str) -> Task:
    """The task of this name: one of `TASKS`, "gsm8k" or "two_step"."""
    if name == "arithmetic":
        return _arithmetic()
    if name == "gsm8k":
        return _gsm8k()
    if name == "two_step":
        return _two_step()
    return _recorded(name)


SOURCES = {
    "clinc_oos": "clinc150 (clinc/oos-eval, CC BY 3.0), 10 intents and out of scope",
    "banking10": "banking77 (PolyAI-LDN/task-specific-datasets, CC BY 4.0), 10 intents",
    "headlines": "HEADLINES (stanford-futuredata/FrugalGPT, Apache-2.0), up, down or none",
    "slots2": "restaurant8k (PolyAI-LDN/task-specific-datasets, CC BY 4.0), time, date and people",
}


def _recorded(name: str) -> Task:
    found = cascade(name)
    clouds = cloud_answers(found)
    generated = not found.labels
    before = "Message: " if generated else ""
    return Task(
        name=name,
        method="ask" if generated else "choose",
        items=tuple(
            Item(text=f"{before}{query.text}", gold=query.gold, cloud=clouds.get(query.text))
            for query in found.queries
        ),
        source=SOURCES[name],
        right=_one_of,
        labels=found.labels,
        examples=tuple((f"{before}{text}", answer) for text, answer in found.examples),
    )


def _arithmetic() -> Task:
    """All sums of two numbers from 1 to 20, shuffled; those first that the wording was tried on."""
    trial = random.Random(TRIAL_SEED)
    tried = [(trial.randint(1, HIGHEST), trial.randint(1, HIGHEST)) for _ in range(N_TRIED)]
    sums = [(a, b) for a in range(1, HIGHEST + 1) for b in range(1, HIGHEST + 1)]
    random.Random(SEED).shuffle(sums)
    sums.sort(key=lambda pair: pair not in tried)
    return Task(
        name="arithmetic",
        method="ask",
        items=tuple(
            Item(text=f"What is {a} + {b}? Answer with the number only.", gold=(str(a + b),)) for a, b in sums
        ),
        source="made from a seed: the 400 sums of two numbers from 1 to 20",
        right=_number,
        max_tokens=24,
    )


def _gsm8k() -> Task:
    """Word problems that a tiny model reasons about at length, and gets wrong."""
    return Task(
        name="gsm8k",
        method="ask",
        items=tuple(Item(text=question, gold=(number,)) for question, number in gsm8k()),
        source="GSM8K (openai/grade-school-math, MIT)",
        right=_number,
        max_tokens=160,
    )


def _two_step() -> Task:
    """Word problems of two steps, with worked ones before; a tiny model gets some of them right."""
    draw = random.Random(STEPS_SEED)
    made = list(dict.fromkeys(_problem(draw) for _ in range(N_PROBLEMS + N_WORKED)))
    return Task(
        name="two_step",
        method="ask",
        items=tuple(Item(text=text, gold=(number,)) for text, _, number in made[N_WORKED:]),
        source="made from a seed: getting and giving away up to 20 things",
        right=_number,
        examples=tuple((text, answer) for text, answer, _ in made[:N_WORKED]),
        max_tokens=96,
    )


def _problem(draw: random.Random) -> tuple[str, str, str]:
    """Question, worked answer, and number."""
    who, what = draw.choice(NAMES), draw.choice(THINGS)
    first, more = draw.randint(2, HIGHEST), draw.randint(2, HIGHEST)
    has = first + more
    away = draw.randint(1, min(HIGHEST, has - 1))
    question = (
        f"{who} has {first} {what}. {who} gets {more} more {what} and then gives away {away} {what}. "
        f"How many {what} does {who} have now?"
    )
    answer = (
        f"First, {first} + {more} = {has}. Then, {has} - {away} = {has - away}. {who} had {first} {what}, "
        f"got {more} more and gave away {away}, so {who} has {has - away} {what} now. "
        f"The answer is {has - away}."
    )
    return question, answer, str(has - away)


def _one_of(answer: str, gold: tuple[str, ...]) -> float:
    return float(any(same_words(answer, text) for text in gold))


def _number(answer: str, gold: tuple[str, ...]) -> float:
    """Whether the last number of the answer is the right one."""
    found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", answer)
    return float(bool(found) and float(found[-1].replace(",", "")) == float(gold[0].replace(",", "")))


def f1(answer: str, gold: tuple[str, ...]) -> float:
    """The best F1 of the answer's words beside those of a right one, as SQuAD counts them."""
    return max(_f1(answer.casefold().split(), text.casefold().split()) for text in gold)


def _f1(found: list[str], wanted: list[str]) -> float:
    shared = sum((Counter(found) & Counter(wanted)).values())
    return 2 * shared / (len(found) + len(wanted)) if shared else 0.0
