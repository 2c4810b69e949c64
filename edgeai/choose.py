"""Classification on the device: the likelihood of each label after a plain few-shot prompt.

Tiny chat models answer classification prompts with one label for everything; as a plain continuation of
"Text: … / Category: …" lines the same weights are right far more often, and the labels' likelihoods are a
confidence. Half of what the model says about inputs without content is taken away (contextual calibration,
Zhao et al. 2021), because small models prefer a label whatever they are asked. The words of the lines, the
inputs and the half were chosen among a few on 120 rows of each of three tasks, of which .72, .62 and .74 are
right with them, and .68, .45 and .46 with "Label", one such input and all of it; on 280 other rows of each it
is .71, .66 and .73.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypedDict

from edgeai.engines import Engine, Generation
from edgeai.engines.generation import Finished
from edgeai.errors import ConfigError, EngineCrashed, EngineError
from edgeai.monitor.choices import corrected
from edgeai.types import FIELDS, LabelScores, Priority, Request, Token

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float32]

STRENGTH = 0.5
"""How much of the labels' likelihood on a content-free input is taken away, unless a contract says."""
CONTENT_FREE = ("N/A", "", "[MASK]")
MOST_PRIORS = 64


class _Asked(TypedDict, total=False):
    on_state: "Callable[[Vector], None]"
    adapter: str
    priority: Priority


class Priors:
    """The labels' likelihoods on a content-free input, by what stands before the question; thread-safe."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, tuple[str, ...], str | None], tuple[float, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def get(
        self,
        head: str,
        labels: Sequence[str],
        measure: Callable[[], tuple[float, ...]],
        adapter: str | None = None,
    ) -> tuple[float, ...]:
        """What is known for ``head`` and ``labels`` under the adapter, measured the first time."""
        key = (head, tuple(labels), adapter)
        with self._lock:
            known = self._known.get(key)
        if known is None:
            known = measure()
        with self._lock:
            self._known[key] = known
            self._known.move_to_end(key)
            if len(self._known) > MOST_PRIORS:
                self._known.popitem(last=False)
        return known


class Classifier:
    """Scores one request's choices and plays the result as a generation of one token, the label.

    ``strength`` is that of the contextual calibration, 0 for none.
    """

    def __init__(
        self, engine: Engine, request: Request, priors: Priors | None = None, *, strength: float = STRENGTH
    ) -> None:
        self._engine, self._request = engine, request
        self._priors = Priors() if priors is None else priors
        self._strength = strength
        self.probabilities: Mapping[str, float] | None = None

    def open(self) -> Generation:
        """Start scoring in a thread of its own."""
        generation = Generation()
        threading.Thread(target=self._run, args=(generation,), name="edgeai-choose", daemon=True).start()
        return generation

    def _run(self, generation: Generation) -> None:
        choices = self._request.choices
        states: list[Vector] = []
        try:
            n_prompt, scores = self._score(generation, states)
        except EngineError as error:
            generation.fail(error)
            return
        except Exception as error:  # noqa: BLE001  # nobody else would hear of it, and the reader waits
            crash = EngineCrashed("The choices could not be scored", why=repr(error))
            crash.__cause__ = error  # the traceback of a bug stays to be read
            generation.fail(crash)
            return
        values = corrected(scores.logprobs, scores.content_free, scores.strength)
        self.probabilities = dict(zip(choices, softmax(values), strict=True))
        token = label_token(self.probabilities)
        generation.put(replace(token, hidden=states[0]) if states else token)
        info = self._engine.info
        generation.finish(
            Finished(
                reason="stop",
                n_prompt=n_prompt,
                labels=scores,
                device=info.device,
                passed_over=info.passed_over,
            )
        )

    def _score(self, generation: Generation, states: "list[Vector]") -> tuple[int, LabelScores]:
        if self._engine.info.labels:
            return self._classify(generation, states)
        head = prompt_head(self._request)
        labels = [f" {label}" for label in self._request.choices]
        fields = self._request.fields
        prompt = head + open_line(question(self._request), fields)
        n_prompt = len(self._engine.tokenize(prompt))

        def score(text: str, on_state: "Callable[[Vector], None] | None" = None) -> tuple[float, ...]:
            asked = self._asked()
            if on_state is not None:
                asked["on_state"] = on_state
            return self._engine.score(text, labels, cancelled=lambda: generation.cancelled, **asked)

        content_free = self._priors.get(
            head,
            labels,
            lambda: mean_of([score(head + open_line(text, fields)) for text in CONTENT_FREE]),
            self._request.adapter,
        )
        logprobs = score(prompt, states.append if self._request.hidden else None)
        return n_prompt, LabelScores(logprobs=logprobs, content_free=content_free, strength=self._strength)

    def _classify(self, generation: Generation, states: "list[Vector]") -> tuple[int, LabelScores]:
        """By a classifier, which was trained on the labels: no examples, and nothing to calibrate."""
        text, choices, asked = question(self._request), self._request.choices, self._asked()
        if self._request.hidden:
            asked["on_state"] = states.append
        logprobs = self._engine.score(text, choices, cancelled=lambda: generation.cancelled, **asked)
        n_prompt = len(self._engine.tokenize(text))
        return n_prompt, LabelScores(logprobs=logprobs, content_free=(0.0,) * len(choices), strength=0.0)

    def _asked(self) -> "_Asked":
        """What is not the usual: an engine of somebody's own need not know the rest."""
        asked: _Asked = {}
        if self._request.adapter is not None:
            asked["adapter"] = self._request.adapter
        if self._request.priority != "interactive":
            asked["priority"] = self._request.priority
        return asked


def with_choices(
    request: Request,
    choices: Sequence[str],
    examples: Sequence[tuple[str, str]],
    fields: tuple[str, str] = FIELDS,
) -> Request:
    """The request as a classification. Raises ConfigError for choices that cannot be told apart."""
    labels = tuple(choices)
    if isinstance(choices, str) or len(labels) < 2:
        raise ConfigError("choose needs at least two choices, as a list of texts")
    if not all(isinstance(label, str) and label.strip() for label in labels):
        raise ConfigError("A choice is empty or not a text")
    for example in examples:
        if isinstance(example, str) or [type(part) for part in example] != [str, str]:
            raise ConfigError(
                f"The example {str(example)[:60]!r} is not a pair of texts",
                remedy='Give ("a text", "its label")',
            )
    try:
        "".join((*labels, *(text for text, _ in examples))).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"A choice or an example is not valid Unicode: {error.reason}") from None
    if len(set(labels)) < len(labels):
        raise ConfigError("A choice is given twice", remedy="Give each label once")
    for text, label in examples:
        if label not in labels:
            raise ConfigError(f"The example {text[:40]!r} has the label {label!r}, which is not a choice")
    first, second = _fields(fields)
    shown = tuple((text, label) for text, label in examples)
    return replace(request, choices=labels, examples=shown, fields=(first, second))


def _fields(fields: Sequence[str]) -> Sequence[str]:
    named = len(fields) == 2 and all(isinstance(name, str) and name.strip() for name in fields)
    if isinstance(fields, str) or not named or any("\n" in name for name in fields):
        raise ConfigError(
            f"fields is {fields!r}", remedy='Give two short names, as ("Headline", "Gold price")'
        )
    return fields


def classification_prompt(request: Request) -> str:
    """The examples and the question as "Text: … / Category: …" lines, open at the last label."""
    return prompt_head(request) + open_line(question(request), request.fields)


def prompt_head(request: Request) -> str:
    """The system text and the examples: what all questions of a kind share, and the engine keeps."""
    system = [message.text for message in request.messages if message.role == "system"]
    shown = [f"{open_line(text, request.fields)} {label}" for text, label in request.examples]
    return "".join(f"{part}\n\n" for part in (*system, *shown))


def question(request: Request) -> str:
    """The user's text."""
    return "\n".join(message.text for message in request.messages if message.role == "user")


def open_line(text: str, fields: tuple[str, str]) -> str:
    """A text whose label is still to come."""
    return f"{fields[0]}: {text}\n{fields[1]}:"


def mean_of(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The logarithm of each label's mean probability over the rows of log-probabilities (nats)."""
    return tuple(
        max(values) + math.log(math.fsum(math.exp(value - max(values)) for value in values) / len(values))
        for values in zip(*rows, strict=True)
    )


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
