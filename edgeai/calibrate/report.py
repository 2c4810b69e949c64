"""What a calibration found, as values: for JSON, and for the page that `edgeai.calibrate.html` makes of it.

No text of a prompt or an answer is in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING

import numpy as np

from edgeai.calibrate.data import Data
from edgeai.calibrate.fit import Fit
from edgeai.calibrate.work import Outcome
from edgeai.monitor import metrics
from edgeai.monitor.certify import labels
from edgeai.monitor.contract import Binding, Certificate
from edgeai.monitor.examples import Example

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]

__all__ = ["Costs", "Counts", "Curves", "Judged", "Report", "report"]

BINS = 10
MOST_POINTS = 400
BASELINES = {
    "prompt length": ("prompt_log_length", -1),
    "mean logprob": ("mean_logprob", 1),
    "sum of logprobs": ("sum_logprob", 1),
    "min logprob": ("min_logprob", 1),
    "pmax": ("label_p", 1),
}
Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Queries. ``duplicates``, and ``conflicts`` among them, were left out; ``strangers`` are references
    outside the choices; ``reused`` had been used by an earlier test and only trained.
    """

    rows: int
    duplicates: int
    conflicts: int
    strangers: int
    reused: int
    train: int
    calibration: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """How well one score tells right from wrong. CPT in percent of the queries; None where undefined."""

    name: str
    auroc: float | None
    apgr: float | None
    cpt50: float | None
    cpt80: float | None
    coverage_at_5: float
    coverage_at_10: float
    coverage_at_20: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What 1,000 queries will take. US dollars and median seconds a query; None: not known."""

    escalated: float
    cloud_usd: float | None
    device_s: float | None
    cloud_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """Points to draw. ``reliability``: (mean confidence, share right) of equal parts; ``risk``: (coverage,
    risk); ``deferral``: (escalation rate, quality) by score; ``right`` and ``wrong``: scores.
    """

    reliability: Points
    risk: Points
    deferral: Mapping[str, Points]
    right: tuple[float, ...]
    wrong: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One calibration. ``split`` says on which part curves and metrics were measured.

    ``cloud_is_assumed``: the cloud was not asked, and counts as always right in APGR, CPT and deferral.
    ``signals`` is the chosen set of features, ``probe`` the kind of probe. ``lost`` is the share of
    training's kept and right queries that leave early, None without early exits.
    """

    source: str
    promise: str
    in_words: str
    verdict: str
    binding: Binding
    certificate: Certificate | None
    counts: Counts
    split: str
    pairs: metrics.Pairs
    cloud_is_assumed: bool
    scores: tuple[Judged, ...]
    ece: float | None
    brier: float | None
    costs: Costs | None
    signals: str
    probe: str | None
    router: bool
    checkpoints: tuple[int, ...]
    lost: float | None
    curves: Curves


def report(
    found: Fit, data: Data, binding: Binding, done: Sequence[Outcome], *, usd_per_query: float | None
) -> Report:
    """The report of a fit. ``usd_per_query`` is the price of one escalation in US dollars, if it is known.

    Curves come from the calibration split where that was looked at anyway, else from training.
    """
    held = found.tested
    examples = found.calibration if held else found.train
    effective = found.calibration_outcomes.scores if held else found.train_outcomes.scores
    weak, strong = _qualities(found, examples)
    scores = {**_baselines(examples), "our score": effective, "oracle": metrics.oracle(weak, strong)}
    right = ~labels(found.promise, found.calibration_outcomes if held else found.train_outcomes)
    confidence, sure = _confidence(found, effective), effective >= 0
    futility = found.pipeline.futility
    return Report(
        source=data.source,
        promise=str(found.promise),
        in_words=found.promise.in_words(),
        verdict=verdict(found),
        binding=binding,
        certificate=found.certificate,
        counts=_counts(found, data),
        split="calibration" if held else "training, cross-fitted",
        pairs=metrics.pairs(weak, strong),
        cloud_is_assumed=_is_assumed(found, examples),
        scores=tuple(_judged(name, values, right, weak, strong) for name, values in scores.items()),
        ece=metrics.ece(confidence[sure], right[sure]) if sure.any() else None,
        brier=metrics.brier(confidence[sure], right[sure]) if sure.any() else None,
        costs=_costs(found.certificate, done, usd_per_query),
        signals=found.fitted.choice.name,
        probe=found.fitted.probe,
        router=found.pipeline.router is not None,
        checkpoints=() if futility is None else tuple(check.tokens for check in futility.checkpoints),
        lost=None if futility is None else futility.lost,
        curves=_curves(scores, effective, confidence, right, weak, strong),
    )


def verdict(found: Fit) -> str:
    """The certificate in words, or why there is none."""
    proof = found.certificate
    if proof is None:
        return f"Not certified. {found.refusal}"
    bad = "differ from the cloud's" if found.promise.kind == "disagreement" else "are wrong"
    return (
        f"Certified: {found.promise.in_words()}. At the threshold {proof.threshold:.4f}, {proof.kept} of "
        f"{proof.n} calibration answers ({proof.coverage:.0%}) stay on the device, and {proof.errors} of "
        f"these {bad}. Proved by {proof.procedure}: p = {proof.p_value:.2g}, needed {proof.level:.2g}."
    )


def _is_assumed(found: Fit, examples: Sequence[Example]) -> bool:
    return found.promise.kind != "disagreement" and any(example.cloud is None for example in examples)


def _qualities(found: Fit, examples: Sequence[Example]) -> "tuple[Floats, Floats]":
    """Those of the device and of the cloud; under "disagreement" the cloud is the standard."""
    if found.promise.kind == "disagreement":
        weak = [float(bool(example.agrees)) for example in examples]
        return np.array(weak), np.ones(len(weak))
    weak = [example.right or 0.0 for example in examples]
    if _is_assumed(found, examples):
        return np.array(weak), np.ones(len(weak))
    return np.array(weak), np.array([example.cloud or 0.0 for example in examples])


def _baselines(examples: Sequence[Example]) -> "dict[str, Floats]":
    """Scores by name, as far as the observations have them; an unknown value is the least safe."""
    found = {"random": metrics.random_scores(len(examples))}
    for name, (feature, sign) in BASELINES.items():
        values = [example.seen.features.get(feature) for example in examples]
        known = [sign * value for value in values if value is not None]
        if known:
            least = min(known) - 1
            found[name] = np.array([least if value is None else sign * value for value in values])
    return found


def _judged(name: str, scores: "Floats", right: "Bools", weak: "Floats", strong: "Floats") -> Judged:
    return Judged(
        name=name,
        auroc=metrics.auroc(scores, right),
        apgr=metrics.apgr(scores, weak, strong),
        cpt50=metrics.cpt(scores, weak, strong, 0.5),
        cpt80=metrics.cpt(scores, weak, strong, 0.8),
        coverage_at_5=metrics.coverage_at_risk(scores, right, 0.05),
        coverage_at_10=metrics.coverage_at_risk(scores, right, 0.1),
        coverage_at_20=metrics.coverage_at_risk(scores, right, 0.2),
    )


def _confidence(found: Fit, scores: "Floats") -> "Floats":
    given = [found.pipeline.score.confidence(float(score)) for score in scores]
    return np.array([0.0 if value is None else value for value in given])


def _counts(found: Fit, data: Data) -> Counts:
    return Counts(
        rows=len(data.rows) + data.duplicates,
        duplicates=data.duplicates,
        conflicts=data.conflicts,
        strangers=data.strangers,
        reused=found.reused,
        train=len(found.train),
        calibration=len(found.calibration),
    )


def _costs(proof: Certificate | None, done: Sequence[Outcome], usd_per_query: float | None) -> Costs | None:
    """For 1,000 queries like these; None without a threshold. The cloud's own bills win over the estimate."""
    if proof is None:
        return None
    paid = [outcome.cloud_usd for outcome in done if outcome.cloud_usd is not None]
    usd = fmean(paid) if paid else usd_per_query
    escalated = 1000 * (1 - proof.coverage)
    return Costs(
        escalated=escalated,
        cloud_usd=None if usd is None else escalated * usd,
        device_s=_median([outcome.device_s for outcome in done]),
        cloud_s=_median([outcome.cloud_s for outcome in done]),
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _curves(
    scores: "Mapping[str, Floats]", effective: "Floats", confidence: "Floats", right: "Bools",
    weak: "Floats", strong: "Floats",
) -> Curves:  # fmt: skip
    sure = effective >= 0
    p, good = confidence[sure], right[sure]
    order = np.argsort(p, kind="stable")
    parts = [part for part in np.array_split(order, BINS) if len(part)]
    return Curves(
        reliability=tuple((float(p[part].mean()), float(good[part].mean())) for part in parts),
        risk=_points(*metrics.risk_coverage(effective, right)),
        deferral={name: _points(*metrics.deferral(values, weak, strong)) for name, values in scores.items()},
        right=tuple(effective[sure][good].tolist()),
        wrong=tuple(effective[sure][~good].tolist()),
    )


def _points(x: "Floats", y: "Floats") -> Points:
    """The curve, of long ones some hundred points in equal steps, the ends included."""
    steps = np.unique(np.linspace(0, len(x) - 1, min(len(x), MOST_POINTS)).round().astype(int))
    return tuple(zip(x[steps].tolist(), y[steps].tolist(), strict=True))
