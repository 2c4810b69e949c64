"""How well a score tells the default model's right answers from its wrong ones, and what that buys.

The device is SmolLM2-135M-Instruct (Q4_1, llama.cpp), asked as the SDK serves it with default settings; the
cloud is the recorded 0.5 B model, which answered 200–240 of the 400 queries (none of arithmetic). Ours is
fitted by five-fold cross-fitting over the queries: a row's score, with every choice behind it (features,
among a few sets; penalty, probe), comes from a fit that never saw the row. AUROC and coverage are of all 400
queries, APGR and CPT (percent sent to the cloud) of those with a cloud answer; brackets are 95 % paired
bootstrap intervals; random is exact. In a classification the answer is one label: "logprob" is the label's
total, and entropy is over the labels. The best baseline is picked with hindsight, so the comparison favours
it.

The recordings of the 0.5 B cloud go with a Q8_0 file of the device's weights; no package carries that file,
and requantizing Q4_1 restores nothing, so `choose` is compared with the aims on Q4_1.
"""

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.confidence.promises import Halves, rates
from benchmarks.confidence.record import Recording, examples, record
from benchmarks.confidence.recorded import same_words
from benchmarks.confidence.tasks import TASKS, Task, f1, task
from benchmarks.table import Row, table, wide
from edgeai.edge import Edge
from edgeai.monitor import metrics
from edgeai.monitor.examples import Example
from edgeai.monitor.fitting import fit_score
from edgeai.monitor.outcomes import outcomes
from edgeai.monitor.promise import Promise
from edgeai.monitor.stages import Pipeline

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Rows = NDArray[np.intp]

__all__ = ["measure"]

FOLDS = 5
RESAMPLES = 400
PROCESSES = 2
N_CTX = 2048
COLUMNS = ("score", "AUROC", "APGR", "CPT50", "CPT80", "kept at 5 % risk", "at 10 %", "at 20 %")
LABEL_BASELINES = {"label logprob": "label_logprob", "pmax": "label_p"}
TEXT_BASELINES = {
    "mean logprob": "mean_logprob", "sum logprob": "sum_logprob", "min logprob": "min_logprob",
    "pmax, first token": "first_logprob", "1 − entropy, first token": "sureness_first",
    "1 − entropy, rolling ten": "sureness_rolling", "1 − entropy, whole answer": "sureness_mean",
}  # fmt: skip
LABEL_SETS = ("p-mass", "log-p-mass", "label-core")
TEXT_SETS = ("sum", "sum-min", "core", "text-all")
CHOOSE_AIMS = {"clinc_oos": 0.66, "banking10": 0.61, "headlines": 0.65}
CERTIFIED_AIMS = {
    "clinc_oos": (0.50, 0.70, 0.85),
    "banking10": (0.41, 0.58, 0.74),
    "slots2": (0.32, 0.68, 0.98),
    "headlines": (0.06, 0.34, 0.68),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One task's scores by name, with the outcomes they are judged by."""

    name: str
    scores: Mapping[str, "Floats"]
    baselines: tuple[str, ...]
    right: "Floats"
    cloud: "Floats"

    def area(self, name: str, rows: "Rows | slice" = slice(None)) -> float:
        """AUROC."""
        found = metrics.auroc(self.scores[name][rows], self.right[rows])
        return np.nan if found is None else found

    @property
    def best(self) -> str:
        """The baseline with the largest AUROC."""
        return max(self.baselines, key=self.area)

    def gain(self) -> tuple[float, float, float]:
        """AUROC of ours minus that of the best baseline, with its interval."""
        low, high = metrics.bootstrap(
            lambda rows: self.area("ours", rows) - self.area(self.best, rows),
            len(self.right),
            resamples=RESAMPLES,
        )
        return self.area("ours") - self.area(self.best), low, high


def measure() -> str:
    """The tables. Ten minutes of asking the model, once, and about as long of fitting."""
    with Edge(engine="llamacpp", n_ctx=N_CTX, ledger=False) as edge:
        recordings = {name: record(edge, task(name))[1] for name in TASKS}
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(_judge, recordings, recordings.values()))
        wanted = {name: rows for name, rows in recordings.items() if name in CERTIFIED_AIMS}
        certified = list(pool.map(_certified, wanted, wanted.values()))
    parts = [_section(judged) for judged in found]
    return "\n\n".join([*parts, table(_aims(found, recordings)), _certified_table(certified)])


def _judge(name: str, rows: tuple[Recording, ...]) -> Judged:
    about = task(name)
    data = examples(about, rows, strength=None, agrees=same_words)
    scores = {
        "random": np.zeros(len(data)),
        "prompt length": -_feature(data, "prompt_log_length"),
    }
    baselines = LABEL_BASELINES if about.labels else TEXT_BASELINES
    scores |= {name: _feature(data, feature) for name, feature in baselines.items()}
    if about.labels:
        scores["1 − entropy"] = 1 - _feature(data, "label_entropy") / np.log(len(about.labels))
    known = tuple(scores)
    scores |= {variant: _cross_fitted(data, only) for variant, only in _variants(about).items()}
    cloud = np.array([np.nan if row.cloud is None else row.cloud for row in data], float)
    right = np.array([row.right for row in data], float)
    scores["oracle"] = np.where(np.isnan(cloud), right, right - cloud)
    return Judged(name=about.name, scores=scores, baselines=known, right=right, cloud=cloud)


def _variants(about: Task) -> Mapping[str, tuple[str, ...]]:
    """The sets of features that each variant may choose among, by their names in `feature_sets`."""
    bases = LABEL_SETS if about.labels else TEXT_SETS
    kinds = ["", "+label", "+probe", "+label+probe"] if about.labels else ["", "+probe"]
    sets = {kind: tuple(f"{base}{kind}" for base in bases) for kind in kinds}
    alone = {_VARIANTS[kind]: names for kind, names in sets.items() if kind in _VARIANTS}
    return {**alone, "ours": tuple(name for names in sets.values() for name in names)}


_VARIANTS = {"": "ours without probe and label", "+label": "ours with label", "+probe": "ours with probe"}


def _cross_fitted(data: Sequence[Example], only: Sequence[str]) -> "Floats":
    if not any("probe" in name for name in only):
        data = [replace(row, seen=replace(row.seen, hidden=None)) for row in data]
    scores = np.empty(len(data))
    for fold in range(FOLDS):
        train = [row for number, row in enumerate(data) if number % FOLDS != fold]
        score = fit_score(train, only=only).score
        for number in range(fold, len(data), FOLDS):
            value = score(data[number].seen)
            scores[number] = -1.0 if value is None else value
    return scores


def _feature(data: Sequence[Example], name: str) -> "Floats":
    values = [row.seen.features.get(name) for row in data]
    return np.array([-1e9 if value is None else value for value in values], float)


def _section(judged: Judged) -> str:
    asked = ~np.isnan(judged.cloud)
    right = judged.right
    counts = str(metrics.pairs(right[asked], judged.cloud[asked])) if asked.any() else "no recorded cloud"
    lines = [_line(judged, name, asked) for name in judged.scores]
    head = f"{judged.name}: right in {right.mean():.3f} of {len(right)}; {counts}"
    return f"{head}\n\n{wide(COLUMNS, lines)}"


def _line(judged: Judged, name: str, asked: "NDArray[np.bool_]") -> list[str]:
    scores, right = judged.scores[name], judged.right
    oracle = name == "oracle"
    order = right + 1e-6 * np.arange(len(right)) / len(right) if oracle else scores  # no ties
    interval = metrics.bootstrap(
        lambda rows: metrics.auroc(order[rows], right[rows]), len(right), resamples=RESAMPLES
    )
    area = metrics.auroc(order, right)
    paired = scores[asked], right[asked], judged.cloud[asked]
    gaps: list[float | None] = [None] * 3
    if asked.any():
        gaps = [metrics.apgr(*paired), metrics.cpt(*paired, 0.5), metrics.cpt(*paired, 0.8)]
    kept = [metrics.coverage_at_risk(order, right, risk) for risk in (0.05, 0.1, 0.2)]
    return [
        name,
        f"{area:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]",
        *("–" if gap is None else form.format(gap) for gap, form in zip(gaps, _FORMS, strict=True)),
        *(f"{value:.2f}" for value in kept),
    ]


_FORMS = ("{:.3f}", "{:.1f}", "{:.1f}")


def _aims(found: Sequence[Judged], recordings: Mapping[str, tuple[Recording, ...]]) -> list[Row]:
    rows, above = [], 0
    for judged in found:
        gain, low, high = judged.gain()
        above += low > 0
        rows.append(
            Row(
                what=f"{judged.name}: AUROC of ours − of the best baseline ({judged.best}), lower bound",
                figure=f"{gain:+.3f} [{low:+.3f}, {high:+.3f}]",
                aim="> −0.01",
                reached=low > -0.01,
            )
        )
    rows.append(
        Row(what="tasks where that bound is above 0", figure=str(above), aim="≥ 3", reached=above >= 3)
    )
    for name, aim in CHOOSE_AIMS.items():
        share = float(np.mean([task(name).right(row.text, row.item.gold) for row in recordings[name]]))
        rows.append(
            Row(
                what=f"{name}: choose is right, default settings",
                figure=f"{share:.3f}",
                aim=f"≥ {aim - 0.05:.2f}",
                reached=share >= aim - 0.05,
            )
        )
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Certified:
    """The mean certified coverage and the share of broken promises, at α = .1, .2 and .3."""

    name: str
    coverage: tuple[float, ...]
    broken: tuple[float, ...]


def _certified(name: str, rows: tuple[Recording, ...]) -> Certified:
    """Fit on the first half, calibrate on 200 draws from the second, which is the population."""
    about = task(name)
    judge: Callable[[str, tuple[str, ...]], float] = (
        about.right if about.labels else lambda answer, gold: float(f1(answer, gold) >= 0.5)
    )
    data = examples(replace(about, right=judge), rows, strength=None, agrees=same_words)
    half = len(data) // 2
    fitted = fit_score(data[:half], only=_variants(about)["ours"])
    halves = Halves(
        name=about.name,
        train=outcomes(data[:half], fitted.cross_fitted),
        population=outcomes(data[half:], Pipeline(score=fitted.score)),
        n=200,
    )
    found = [rates(Promise(kind="error", bound=alpha, confidence=0.9), halves) for alpha in (0.1, 0.2, 0.3)]
    return Certified(
        name=about.name,
        coverage=tuple(rate.coverage for rate in found),
        broken=tuple(rate.broken for rate in found),
    )


def _certified_table(found: Sequence[Certified]) -> str:
    rows = [
        Row(
            what=f"{one.name}: certified coverage at α = {alpha}, δ = .1, 200 labels (broken: {broken:.3f})",
            figure=f"{coverage:.2f}",
            aim=f"≥ {aim:.2f}",
            reached=round(coverage, 2) >= aim,
        )
        for one in found
        for alpha, coverage, broken, aim in zip(
            (".1", ".2", ".3"), one.coverage, one.broken, CERTIFIED_AIMS[one.name], strict=True
        )
    ]
    return f"Certified with contract B, means over a thousand calibrations (slots: F1 ≥ .5):\n\n{table(rows)}"
