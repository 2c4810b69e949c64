"""One answer under observation: tokens in, signals out, no clock and no I/O."""

import math
from dataclasses import replace

from edgeai.monitor.examples import Observation
from edgeai.monitor.guard import Guard
from edgeai.monitor.latency import TimeModel
from edgeai.monitor.signals import Features
from edgeai.monitor.watch import Watch
from edgeai.types import FinishReason, LabelScores, Signals, Token

MIN_TOKEN = "min_token_probability"
LABEL = "label_probability"


class Monitor:
    """Watches one answer.

    Until a calibration exists the score is the probability of the least likely token, from raw logits: the
    answer is as weak as its weakest token, and the score can only fall, so that a threshold may be applied
    while tokens stream. For a classification it is the probability of the label.

    Without a ``time_model`` the remaining time is not predicted. ``watch`` collects what a fitted score
    needs; without it nothing more than the tokens' probabilities is kept. ``guard`` judges by a contract, and
    needs a ``watch``; the score at the end is then the contract's.
    """

    def __init__(
        self,
        time_model: TimeModel | None,
        *,
        max_tokens: int,
        labels: bool = False,
        watch: Watch | None = None,
        guard: Guard | None = None,
    ) -> None:
        self._features = watch.features if watch else Features()
        self._watch, self._guard = watch, guard
        self._time_model = time_model
        self._max_tokens = max_tokens
        self.score_name = LABEL if labels else MIN_TOKEN
        self.seen: Observation | None = None
        self.labels: LabelScores | None = None
        self.n_prompt = 0
        self.first_s = 0.0  # from the call to the first token: queue and prefill, set by the run
        self.decode_s = 0.0

    @property
    def n_tokens(self) -> int:
        """How many tokens have been observed."""
        return self._features.n_tokens

    def observe(self, token: Token) -> Signals:
        """Take the next token into account."""
        if self.n_tokens:
            self.decode_s += token.step_s
        if self._watch is None:
            self._features.observe(token)
            return self.signals()
        prefix = self._watch.observe(token)
        if prefix is None or self._guard is None or not self._guard.futile(self.n_tokens, prefix):
            return self.signals()
        return replace(self.signals(), keeps=False)

    def signals(self, *, waited_s: float = 0.0) -> Signals:
        """What is known now; ``waited_s`` is the time since the last token, while none has come."""
        return Signals(
            n_tokens=self.n_tokens,
            elapsed_s=self.first_s + self.decode_s + waited_s,
            remaining_s=self._remaining_s(),
            score=math.exp(self._features.min_logprob) if self.n_tokens else None,
            score_name=self.score_name,
            threshold=self._guard.threshold if self._guard else None,
        )

    def _remaining_s(self) -> float | None:
        if self._time_model is None:
            return None
        return self._time_model.remaining_s(
            n_in=self.n_prompt, n_done=self.n_tokens, max_tokens=self._max_tokens
        )

    def finish(
        self, reason: FinishReason, *, cut_off: bool = False, labels: LabelScores | None = None
    ) -> Signals:
        """What is known of the complete answer, features included. ``labels``: it was a classification."""
        hit_limit = reason == "length"
        self.labels = labels
        if self._watch is None:
            features = self._features.snapshot(hit_limit=hit_limit)
        else:
            self.seen = self._watch.seen(hit_limit=hit_limit, labels=labels)
            features = dict(self.seen.features)
        ended = replace(self.signals(), remaining_s=0.0, finished=reason, cut_off=cut_off, features=features)
        return self._judged(ended)

    def _judged(self, ended: Signals) -> Signals:
        if self._guard is None or self.seen is None:
            return ended
        score, confidence, keeps = self._guard.judge(self.seen)
        return replace(
            ended,
            score=score,
            score_name=self._guard.score_name,
            confidence=confidence,
            keeps=keeps and not ended.cut_off,
        )
