"""Stage 1 without any model: who should answer, from the prompt alone, on RouteLLM's own outcome files.

Mixtral-8x7B is the device, GPT-4 the cloud; the decontaminated questions of Ong et al. 2024, judged as there.
RouteLLM's routers learned from votes of Chatbot Arena, some of them also from other labels; ours sees the
outcomes of questions of the same benchmark, as many as the table says, drawn at random, and is judged on all
others: another supervision, so the published figures are a mark, not a rival. Figures are means over five
draws; in brackets the 95 % bootstrap interval over the questions of the first draw. CPT are percent of the
queries sent to the cloud, so lower is better. The binned forms are RouteLLM's: ten quantile bins. "Published"
is the best router of each column; random is exact, the expectation over all orders.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Literal

import numpy as np

from benchmarks.confidence.data import Paired, routellm
from benchmarks.table import Row, table, wide
from edgeai.monitor import metrics
from edgeai.monitor.examples import Example, Observation, prompt_key
from edgeai.monitor.fit_stages import fit_router
from edgeai.monitor.prompts import hashed_words, prompt_features

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Rows = NDArray[np.intp]

__all__ = ["measure"]

DRAWS = 5
RESAMPLES = 300
LABELS: Mapping[Literal["mmlu", "gsm8k"], int] = {"mmlu": 1500, "gsm8k": 650}
PUBLISHED = {"mmlu": (".603", "35.4", "70.3"), "gsm8k": (".622", "33.6", "63.3")}
COLUMNS = ("scores", "APGR", "CPT50", "CPT80", "APGR, 10 bins", "CPT50, 10 bins", "CPT80, 10 bins")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Scores of the questions that no label was seen of (higher: stay), and the two models' outcomes."""

    scores: "Floats"
    weak: "Floats"
    strong: "Floats"

    def figures(self, rows: "Rows | None" = None) -> tuple[float, ...]:
        """APGR, CPT50 and CPT80, exact and then in RouteLLM's bins."""
        take = np.arange(len(self.scores)) if rows is None else rows
        three = self.scores[take], self.weak[take], self.strong[take]
        found = [
            value
            for bins in (None, 10)
            for value in (
                metrics.apgr(*three, bins=bins),
                metrics.cpt(*three, 0.5, bins=bins),
                metrics.cpt(*three, 0.8, bins=bins),
            )
        ]
        return tuple(np.nan if value is None else value for value in found)


def measure() -> str:
    """The tables. About three minutes on one core."""
    return "\n\n".join(_data_set(name) for name in LABELS)


def _data_set(name: Literal["mmlu", "gsm8k"]) -> str:
    rows, n = routellm(name), LABELS[name]
    examples = [_example(row) for row in rows]
    drawn = [_draw(rows, examples, n, seed) for seed in range(DRAWS)]
    lines = [_line(f"ours, {n} labels", [draw["ours"] for draw in drawn])]
    lines += [
        _line(other, [draw[other] for draw in drawn]) for other in ("prompt length", "random", "oracle")
    ]
    lines.insert(1, ["published", *PUBLISHED[name], *PUBLISHED[name]])
    pairs = metrics.pairs([row.weak for row in rows], [row.strong for row in rows])
    ours = mean(draw["ours"].figures()[0] for draw in drawn)
    gain, low, high = _gain(drawn[0])
    aims = [
        Row(
            what="APGR of ours beside the best published",
            figure=f"{ours:.3f}",
            aim=f"> {PUBLISHED[name][0]}",
            reached=ours > float(PUBLISHED[name][0]),
        ),
        Row(
            what="APGR of ours − of prompt length, first draw, lower bound",
            figure=f"{gain:+.3f} [{low:+.3f}, {high:+.3f}]",
            aim="> 0",
            reached=low > 0,
        ),
    ]
    return f"{name}: {pairs}\n\n{wide(COLUMNS, lines)}\n\n{table(aims)}"


def _draw(rows: Sequence[Paired], examples: Sequence[Example], n: int, seed: int) -> Mapping[str, Judged]:
    order = np.random.default_rng(seed).permutation(len(rows))
    train = [examples[row] for row in order[:n]]
    router, _ = fit_router(train, np.zeros(n, bool))
    rest = order[n:]
    weak, strong = (np.array([getattr(rows[row], side) for row in rest]) for side in ("weak", "strong"))
    scores: dict[str, Callable[[], Sequence[float]]] = {
        "ours": lambda: [-router.gain(examples[row].seen) for row in rest],
        "prompt length": lambda: [-float(len(rows[row].prompt)) for row in rest],
        "random": lambda: [0.0] * len(rest),
        "oracle": lambda: list(metrics.oracle(weak, strong)),
    }
    return {
        name: Judged(scores=np.array(make(), float), weak=weak, strong=strong)
        for name, make in scores.items()
    }


def _line(name: str, draws: Sequence[Judged]) -> list[str]:
    means = np.mean([draw.figures() for draw in draws], axis=0)
    first = draws[0]
    low, high = metrics.bootstrap(lambda rows: first.figures(rows)[0], len(first.scores), resamples=RESAMPLES)
    forms = ("{:.3f}", "{:.1f}", "{:.1f}") * 2
    cells = [form.format(value) for form, value in zip(forms, means, strict=True)]
    cells[0] += f" [{low:.3f}, {high:.3f}]"
    return [name, *cells]


def _gain(draw: Mapping[str, Judged]) -> tuple[float, float, float]:
    """Our APGR minus that of prompt length, and its paired interval."""
    ours, length = draw["ours"], draw["prompt length"]

    def gain(rows: "Rows | None" = None) -> float:
        return ours.figures(rows)[0] - length.figures(rows)[0]

    return gain(), *metrics.bootstrap(gain, len(ours.scores), resamples=RESAMPLES)


def _example(row: Paired) -> Example:
    seen = Observation(features=prompt_features(row.prompt), words=hashed_words(row.prompt))
    return Example(key=prompt_key(row.prompt), seen=seen, right=row.weak, cloud=row.strong)
