"""Classification on the device: the likelihood of each label after a plain few-shot prompt.

Tiny chat models answer classification prompts with one label for everything; as a plain continuation of
"Text: … / Label: …" lines the same weights are right far more often, and the labels' likelihoods are a
confidence.
"""

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgeai.engines import Engine, Generation
from edgeai.engines.generation import Finished
from edgeai.errors import ConfigError, EngineCrashed, EngineError
from edgeai.types import Request, Token


class Classifier:
    """Scores one request's choices and plays the result as a generation of one token, the label."""

    def __init__(self, engine: Engine, request: Request) -> None:
        self._engine, self._request = engine, request
        self.probabilities: Mapping[str, float] | None = None

    def open(self) -> Generation:
        """Start scoring in a thread of its own."""
        generation = Generation()
        threading.Thread(target=self._score, args=(generation,), name="edgeai-choose", daemon=True).start()
        return generation

    def _score(self, generation: Generation) -> None:
        prompt = classification_prompt(self._request)
        choices = self._request.choices
        try:
            n_prompt = len(self._engine.tokenize(prompt))
            labels = [f" {label}" for label in choices]
            scores = self._engine.score(prompt, labels, cancelled=lambda: generation.cancelled)
        except EngineError as error:
            generation.fail(error)
            return
        except Exception as error:  # noqa: BLE001  # nobody else would hear of it, and the reader waits
            crash = EngineCrashed("The choices could not be scored", why=repr(error))
            crash.__cause__ = error  # the traceback of a bug stays to be read
            generation.fail(crash)
            return
        self.probabilities = dict(zip(choices, softmax(scores), strict=True))
        generation.put(label_token(self.probabilities))
        generation.finish(Finished(reason="stop", n_prompt=n_prompt))


def with_choices(request: Request, choices: Sequence[str], examples: Sequence[tuple[str, str]]) -> Request:
    """The request as a classification. Raises ConfigError for choices that cannot be told apart."""
    labels = tuple(choices)
    if isinstance(choices, str) or len(labels) < 2:
        raise ConfigError("choose needs at least two choices, as a list of texts")
    if not all(isinstance(label, str) and label.strip() for label in labels):
        raise ConfigError("A choice is empty or not a text")
    try:
        "".join((*labels, *(text for text, _ in examples))).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"A choice or an example is not valid Unicode: {error.reason}") from None
    if len(set(labels)) < len(labels):
        raise ConfigError("A choice is given twice", remedy="Give each label once")
    for text, label in examples:
        if label not in labels:
            raise ConfigError(f"The example {text[:40]!r} has the label {label!r}, which is not a choice")
    return replace(request, choices=labels, examples=tuple((text, label) for text, label in examples))


def classification_prompt(request: Request) -> str:
    """The examples and the question as "Text: … / Label: …" lines, open at the last label."""
    shown = [f"Text: {text}\nLabel: {label}" for text, label in request.examples]
    system = [message.text for message in request.messages if message.role == "system"]
    question = "\n".join(message.text for message in request.messages if message.role == "user")
    return "\n\n".join([*system, *shown, f"Text: {question}\nLabel:"])


def softmax(logprobs: Sequence[float]) -> tuple[float, ...]:
    """Probabilities in proportion to e^logprob, summing to 1."""
    highest = max(logprobs)
    weights = [math.exp(value - highest) for value in logprobs]
    total = sum(weights)
    return tuple(weight / total for weight in weights)


def label_token(probabilities: Mapping[str, float]) -> Token:
    """The likeliest label as a token: its logprob (nats), the entropy (nats) and the lead over the next."""
    ranked = sorted(probabilities.items(), key=lambda item: item[1], reverse=True)
    label, p = ranked[0]
    entropy = -sum(q * math.log(q) for q in probabilities.values() if q > 0)
    margin = p - (ranked[1][1] if len(ranked) > 1 else 0.0)
    return Token(id=0, text=label, logprob=math.log(p), entropy=entropy, margin=margin, step_s=0.0)
