"""Is a promise kept? Every kind of contract, on real outcomes, a thousand calibrations each.

The score is fitted on a fixed half of a task's queries; calibration sets are drawn with replacement from the
other half, which is the population whose risk is judged, exactly. A cell is the share of calibrations whose
certified threshold breaks the promise there / the share in which the naive threshold does (the lowest one
whose empirical risk is within the bound) / the mean coverage certified. The promise allows δ = .1; with a
thousand draws a rate of up to .128 (three standard errors) is the noise of sampling. Where a promise is true
of all queries anyway, nobody can break it. The four tasks are the recorded tiny cascade (135 M beside 0.5 B);
the cloud answered 200–240 of its queries, so C and D draw 100–120 labels there, A and B 200. mmlu and gsm8k
are 4,000 and all of RouteLLM's questions under stage 1 alone, 500 labels a calibration; "error" is hopeless
for it, and certifies nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.confidence.data import CASCADE, routellm
from benchmarks.confidence.recorded import recorded
from benchmarks.table import Row, table, wide
from edgeai.monitor.certify import Plan, plan
from edgeai.monitor.certify import test as run_test
from edgeai.monitor.examples import Example, Observation, prompt_key
from edgeai.monitor.fit_stages import fit_router
from edgeai.monitor.fitting import fit_score
from edgeai.monitor.outcomes import Outcomes, outcomes
from edgeai.monitor.promise import Promise
from edgeai.monitor.prompts import hashed_words, prompt_features
from edgeai.monitor.stages import Pipeline

__all__ = ["Halves", "broken_by", "measure", "rates"]

RESPLITS = 1000
PROMISES = (
    "overall-error<=0.1@0.9", "error<=0.1@0.9", "error<=0.2@0.9", "quality>=0.9@0.9", "quality>=0.95@0.9",
    "disagreement<=0.2@0.9", "disagreement<=0.3@0.9",
)  # fmt: skip
RELATIVE = ("quality", "disagreement")


@dataclass(frozen=True, slots=True, kw_only=True)
class Halves:
    """A training half with cross-fitted scores, the population, and how many labels a calibration draws."""

    name: str
    train: Outcomes
    population: Outcomes
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Shares of the calibrations that break the promise, by the exact test and by the naive threshold."""

    broken: float
    naive: float
    coverage: float

    def __str__(self) -> str:
        return f"{self.broken:.3f} / {self.naive:.3f} / {self.coverage:.2f}"


def measure() -> str:
    """The table. About five minutes on one core."""
    single, both, big = list(_tasks(both=False)), list(_tasks(both=True)), list(_routed())
    lines, worst = [], []
    for text in PROMISES:
        promise = Promise.parse(text)
        sets = [*(both if promise.kind in RELATIVE else single), *big]
        found = [rates(promise, halves) for halves in sets if _has_labels(promise, halves)]
        lines.append([text, *(map(str, found)), *[""] * (len(sets) - len(found))])
        worst.append((promise, found))
    names = [halves.name for halves in (*single, *big)]
    return f"{wide(['promise', *names], lines)}\n\n{table([_aim(*row) for row in worst])}"


def broken_by(promise: Promise, data: Outcomes, threshold: float) -> bool:
    """Whether the promise is untrue of these queries at this threshold."""
    kept = data.scores >= threshold
    if promise.kind == "quality":
        assert data.weak is not None
        assert data.strong is not None
        hybrid = np.where(kept, data.weak, data.strong)
        return bool(hybrid.mean() < promise.bound * data.strong.mean() - 1e-12)
    bad = data.differs if promise.kind == "disagreement" else data.wrong
    assert bad is not None
    n = len(data) if promise.kind == "overall-error" else kept.sum()
    return bool((bad & kept).sum() > promise.bound * n + 1e-9)


def rates(promise: Promise, halves: Halves) -> Rates:
    """How often the promise is broken in `RESPLITS` calibrations drawn from the population."""
    made = plan(promise, halves.train, halves.n)
    random = np.random.default_rng(11)
    broken = naive = 0
    coverage = []
    for _ in range(RESPLITS):
        held = halves.population.take(random.integers(0, len(halves.population), halves.n))
        found = run_test(made, held)
        threshold = made.grid[found.place] if found else 2.0
        broken += broken_by(promise, halves.population, threshold)
        naive += broken_by(promise, halves.population, _naive(made, held))
        coverage.append(float((halves.population.scores >= threshold).mean()))
    return Rates(broken=broken / RESPLITS, naive=naive / RESPLITS, coverage=float(np.mean(coverage)))


def _naive(made: Plan, held: Outcomes) -> float:
    fitting = [value for value in made.grid if not broken_by(made.promise, held, value)]
    return min(fitting, default=2.0)


def _aim(promise: Promise, found: list[Rates]) -> Row:
    allowed = promise.delta + 3 * np.sqrt(promise.delta * (1 - promise.delta) / RESPLITS)
    most = max(rates.broken for rates in found)
    naive = f"naive: {min(r.naive for r in found):.3f}–{max(r.naive for r in found):.3f}"
    return Row(
        what=f"{promise}, worst of {len(found)} data sets ({naive})",
        figure=f"{most:.3f}",
        aim=f"≤ {allowed:.3f}",
        reached=most <= allowed,
    )


def _tasks(*, both: bool) -> Iterator[Halves]:
    for name in CASCADE:
        half = (len(recorded(name, train=0, both=both))) // 2
        rows = recorded(name, train=half, both=both)
        fitted = fit_score(rows[:half])
        yield Halves(
            name=name,
            train=outcomes(rows[:half], fitted.cross_fitted),
            population=outcomes(rows[half:], Pipeline(score=fitted.score)),
            n=min(200, len(rows) - half),
        )


def _routed() -> Iterator[Halves]:
    """RouteLLM's questions, scored by how little the cloud is expected to gain, moved into 0 … 1."""
    for name in ("mmlu", "gsm8k"):
        rows = routellm(name)
        order = np.random.default_rng(3).permutation(len(rows))[:4000]
        examples = [
            Example(
                key=prompt_key(rows[at].prompt),
                seen=Observation(
                    features=prompt_features(rows[at].prompt), words=hashed_words(rows[at].prompt)
                ),
                right=rows[at].weak,
                cloud=rows[at].strong,
            )
            for at in order
        ]
        half = min(1500, len(examples) // 2)
        router, crossed = fit_router(examples[:half], np.zeros(half, bool))
        scores = np.array([(1 - router.gain(example.seen)) / 2 for example in examples[half:]])
        yield Halves(
            name=name,
            train=outcomes(examples[:half], (1 - crossed) / 2),
            population=outcomes(examples[half:], np.maximum(scores, 0)),
            n=500,
        )


def _has_labels(promise: Promise, halves: Halves) -> bool:
    return promise.kind != "disagreement" or halves.population.differs is not None
