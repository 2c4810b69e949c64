"""How strongly the labels of a classification are corrected by a content-free input: chosen on training.

The correction helps or hurts by task and model (`edgeai.monitor.choices`), and it decides the label. So each
strength makes another device, whose answers are judged anew from the measurements that were written down.
"""

from collections.abc import Sequence
from dataclasses import replace

from edgeai.calibrate.data import Row
from edgeai.calibrate.work import Outcome
from edgeai.monitor.choices import STRENGTHS
from edgeai.monitor.examples import Example, split
from edgeai.monitor.watch import label_observation
from edgeai.scorers import Scorer

__all__ = ["best_strength"]


def best_strength(
    done: Sequence[Outcome],
    rows: Sequence[Row],
    choices: Sequence[str],
    judge: Scorer,
    *,
    good: float,
    share: float,
    by_cloud: bool,
) -> tuple[float | None, list[Example]]:
    """The strength with the most right answers in training, and the examples under it.

    ``by_cloud``: right is what agrees with the cloud. Ties go to the strength that was observed. None,
    and the examples as they are, for what is no classification.
    """
    observed = done[0].labels
    if observed is None or any(outcome.labels is None for outcome in done):
        return None, [outcome.example for outcome in done]
    tried = {
        strength: [_under(strength, *pair, choices, judge, good) for pair in zip(done, rows, strict=True)]
        for strength in {*STRENGTHS, observed.strength}
    }

    def merit(strength: float) -> tuple[float, bool, float]:
        train = split(tried[strength], calibration=share).train
        right = sum(bool(example.agrees) if by_cloud else (example.right or 0.0) >= good for example in train)
        return right, strength == observed.strength, -strength

    best = max(tried, key=merit)
    return best, tried[best]


def _under(
    strength: float, outcome: Outcome, row: Row, choices: Sequence[str], judge: Scorer, good: float
) -> Example:
    """What the query would have become."""
    assert outcome.labels is not None
    seen = label_observation(outcome.example.seen, choices, replace(outcome.labels, strength=strength))
    label = seen.categories["label"]
    assert label is not None
    return replace(
        outcome.example,
        seen=seen,
        right=None if row.reference is None else judge(label, row.reference),
        agrees=None if outcome.cloud_label is None else judge(label, outcome.cloud_label) >= good,
    )
