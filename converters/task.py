"""Questions with choices, for a score before and after a conversion."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeai.converters.running import Running
from edgeai.errors import ConfigError

__all__ = ["Question", "Task", "read_task", "score"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """``prompt`` goes to the model as a user's message; ``reference`` is the right one of ``choices``."""

    prompt: str
    choices: tuple[str, ...]
    reference: str


Task = tuple[Question, ...]


def read_task(path: Path) -> Task:
    """JSONL of prompt, choices and reference. Raises ConfigError."""
    questions = []
    try:
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
            if line.strip():
                row = json.loads(line)
                question = Question(
                    prompt=str(row["prompt"]),
                    choices=tuple(map(str, row["choices"])),
                    reference=str(row["reference"]),
                )
                if question.reference not in question.choices:
                    raise ValueError(f"line {number}: the reference is not among the choices")
                questions.append(question)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is not a task", why=str(error), remedy="Give JSONL of prompt, choices, reference"
        ) from error
    if not questions:
        raise ConfigError(f"{path} has no questions")
    return tuple(questions)


def score(model: Running, task: Task) -> float:
    """The share of questions whose right choice is the likeliest one."""
    return float(np.mean([_answer(model, question) == question.reference for question in task]))


def _answer(model: Running, question: Question) -> str:
    prompt = model.voice.prompt([{"role": "user", "content": question.prompt}])
    ids = [
        *model.voice.starts,
        *model.voice.ids(question.prompt + "\n" if prompt is None else prompt, special=True),
    ]
    return max(question.choices, key=lambda choice: _likelihood(model, ids, model.voice.ids(choice)))


def _likelihood(model: Running, ids: list[int], tail: list[int]) -> float:
    """The mean log-probability of a token of the tail."""
    total, place = 0.0, 0
    for rows in model.rows([*ids, *tail[:-1]]):
        for row in rows:
            place += 1
            at = place - len(ids)
            if at >= 0:
                peak = row.max()
                total += float(row[tail[at]] - peak - np.log(np.exp(row - peak).sum()))
    return total / max(len(tail), 1)
