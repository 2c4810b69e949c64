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
STEPS_SEED, N_STEPS, N_WORKED = 7, 625, 6


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
    """The task of this name: one of `TASKS`, "gsm8k" or "steps"."""
    if name == "arithmetic":
        return _arithmetic()
    if name == "gsm8k":
        return _gsm8k()
    if name == "steps":
        return _steps()
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


def _steps() -> Task:
    """Sums of three numbers in two steps, after worked ones; a tiny model gets some of them right."""
    draw = random.Random(STEPS_SEED)
    made = dict.fromkeys(
        (draw.randint(1, HIGHEST), draw.randint(1, HIGHEST), draw.randint(1, HIGHEST)) for _ in range(N_STEPS)
    )
    worked = [(_sum_of(three), _in_steps(*three)) for three in made]
    return Task(
        name="steps",
        method="ask",
        items=tuple(Item(text=_sum_of(three), gold=(str(sum(three)),)) for three in made)[N_WORKED:],
        source="made from a seed: sums of three numbers from 1 to 20",
        right=_number,
        examples=tuple(worked[:N_WORKED]),
        max_tokens=96,
    )


def _sum_of(numbers: tuple[int, ...]) -> str:
    return f"What is {' + '.join(map(str, numbers))}?"


def _in_steps(a: int, b: int, c: int) -> str:
    return f"Step by step: {a} + {b} = {a + b}, {a + b} + {c} = {a + b + c}. The answer is {a + b + c}."


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
