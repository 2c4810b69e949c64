"""Collects what is seen of one answer while it is served: the same at calibration and at run time."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeai.monitor.choices import corrected, label_features
from edgeai.monitor.examples import FeatureMap, Observation
from edgeai.monitor.prompts import hashed_words, prompt_features
from edgeai.monitor.signals import Features
from edgeai.monitor.spans import SpanKind
from edgeai.types import LabelScores, Token

if TYPE_CHECKING:
    from edgeai.monitor.hidden import HiddenStates

__all__ = ["CHECKPOINTS", "Watch", "label_observation"]

CHECKPOINTS = (1, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
"""After how many tokens a prefix is judged."""


class Watch:
    """The observation of one answer in the making; O(1) a token.

    ``prompt`` is the user's text. With ``choices`` it is a classification, and its tokens carry no features
    of their own. ``span`` and ``n_vocab`` as for `Features`.
    """

    def __init__(
        self,
        prompt: str,
        *,
        task: str | None = None,
        choices: Sequence[str] = (),
        span: SpanKind = "digits",
        n_vocab: int | None = None,
    ) -> None:
        self.features = Features(span=span, n_vocab=n_vocab)
        self._task, self._choices = task, tuple(choices)
        self._prompt = prompt_features(prompt, n_choices=len(self._choices))
        self._words = hashed_words(prompt)
        self._prefixes: dict[int, FeatureMap] = {}
        self._states: HiddenStates | None = None

    def before(self) -> Observation:
        """What is known before anything is generated."""
        return Observation(features=self._prompt, categories={"task": self._task}, words=self._words)

    def observe(self, token: Token) -> FeatureMap | None:
        """Take the next token into account; at a checkpoint the features of all tokens so far, else None."""
        self.features.observe(token)
        self._take_state(token)
        n = self.features.n_tokens
        if self._choices or n not in CHECKPOINTS:
            return None
        self._prefixes[n] = self.features.prefix()
        return self._prefixes[n]

    def _take_state(self, token: Token) -> None:
        if token.hidden is None:
            return
        if self._states is None:
            from edgeai.monitor.hidden import HiddenStates  # loads numpy, which the engine has loaded

            self._states = HiddenStates()
            self._states.prompt(token.hidden)
        else:
            self._states.observe(token.hidden)

    def seen(self, *, hit_limit: bool | None = None, labels: LabelScores | None = None) -> Observation:
        """All that is known of the answer as it stands."""
        whole = Observation(
            features=self._prompt
            if self._choices
            else self._prompt | self.features.snapshot(hit_limit=hit_limit),
            categories={"task": self._task},
            prefixes=dict(self._prefixes),
            words=self._words,
            hidden=self._states.vector() if self._states else None,
        )
        return whole if labels is None else label_observation(whole, self._choices, labels)


def label_observation(seen: Observation, choices: Sequence[str], labels: LabelScores) -> Observation:
    """The observation with the features of these measurements, and the label that they make likeliest."""
    values = corrected(labels.logprobs, labels.content_free, labels.strength)
    best = max(range(len(values)), key=values.__getitem__)
    features = label_features(labels.logprobs, labels.content_free, labels.strength)
    return Observation(
        features={**seen.features, **features},
        categories={**seen.categories, "label": choices[best]},
        prefixes=seen.prefixes,
        words=seen.words,
        hidden=seen.hidden,
    )
