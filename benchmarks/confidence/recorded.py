"""The recorded tiny cascade as examples: the local model's confidence, and whether either side was right.

The strength of contextual calibration is chosen on the training rows, for each side on its own, as
`edgeai calibrate` does.
"""

from collections.abc import Sequence

from benchmarks.confidence.data import Cascade, Side, cascade
from edgeai.monitor.choices import choose_strength, corrected, label_features
from edgeai.monitor.examples import Example, Observation, prompt_key
from edgeai.monitor.prompts import hashed_words, prompt_features
from edgeai.monitor.signals import Features
from edgeai.types import Token

__all__ = ["N_VOCAB", "cloud_answers", "recorded", "same_words"]

N_VOCAB = 49_152


def recorded(name: str, *, train: int, both: bool = False) -> tuple[Example, ...]:
    """The examples of a task in their recorded, random order; the first ``train`` ones chose the strength.

    ``both``: only the queries that the cloud answered too.
    """
    task = cascade(name)
    queries = [query for query in task.queries if query.cloud or not both]
    strength = _strength(task, [query.local for query in queries[:train]])
    clouds = cloud_answers(task)
    found = []
    for query in queries:
        answer = _answer(task, query.local, strength)
        cloud = clouds.get(query.text)
        found.append(
            Example(
                key=prompt_key(query.text),
                seen=_seen(task, query.text, query.local, answer, strength),
                right=float(answer in query.gold) if task.labels else float(query.local.right),
                cloud=cloud[1] if cloud else None,
                agrees=same_words(answer, cloud[0]) if cloud else None,
            )
        )
    return tuple(found)


def cloud_answers(task: Cascade) -> dict[str, tuple[str, float]]:
    """The recorded cloud's answer to each query it was asked, and whether it is right (0 or 1)."""
    asked = [query for query in task.queries if query.cloud]
    sides = [query.cloud for query in asked if query.cloud]
    strength = _strength(task, sides[: len(sides) // 2])
    found = {}
    for query, side in zip(asked, sides, strict=True):
        answer = _answer(task, side, strength)
        found[query.text] = answer, float(answer in query.gold) if task.labels else float(side.right)
    return found


def same_words(one: str, other: str) -> bool:
    """Whether two answers are the same text but for case, white space and full stops at the ends."""
    return _plain(one) == _plain(other)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .")


def _strength(task: Cascade, sides: Sequence[Side]) -> float:
    if not task.labels:
        return 0.0
    gold = {id(side): query.gold[0] for query in task.queries for side in (query.local, query.cloud) if side}
    return choose_strength(
        (side.logprobs, side.content_free, task.labels.index(gold[id(side)])) for side in sides
    )


def _answer(task: Cascade, side: Side, strength: float) -> str:
    if not task.labels:
        return side.text
    values = corrected(side.logprobs, side.content_free, strength)
    return task.labels[max(range(len(values)), key=values.__getitem__)]


def _seen(task: Cascade, text: str, side: Side, answer: str, strength: float) -> Observation:
    prompt = prompt_features(text, n_choices=len(task.labels))
    if task.labels:
        features = label_features(side.logprobs, side.content_free, strength)
        return Observation(
            features={**features, **prompt}, categories={"label": answer}, words=hashed_words(text)
        )
    found = Features(n_vocab=N_VOCAB)
    for number, (logprob, entropy, margin) in enumerate(side.tokens):
        found.observe(Token(id=number, text="", logprob=logprob, entropy=entropy, margin=margin, step_s=0.0))
    return Observation(features={**found.snapshot(), **prompt}, words=hashed_words(text))
