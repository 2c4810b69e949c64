"""The contracts that are shipped for the default model (Q4_1, llama.cpp), made as `edgeai calibrate` does.

Half of the prompts, by their hashes, fit the score; the others certify, once. A promise that the test does
not bear out is refused, and the row says why; nothing is shipped for it.

clinc_oos and banking10: the promise was fixed before anything was looked at. Prompts that the form of the
question was chosen on (120 each) serve for fitting only.

headlines, slots2 and arithmetic: a promise fixed likewise (error<=0.2@0.9) was refused on the first 400
prompts of each. These serve for fitting only now, and other prompts were drawn (`fresh`): half of them fits
too, and the other half certifies. What is promised is chosen on the fitting half of those alone: of a fixed
menu (`menu`) the tightest promise that at least 95 % of resamples of its cross-fitted outcomes certify, as
many labels each as will certify, with at least 20 % of the answers kept. The certifying labels have a part in
nothing before their test. (The last two promises of the menu were added when training showed that none before
them is feasible for arithmetic; nothing had been certified for it by then.)
"""

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import edgeai
from benchmarks.confidence.fresh import fresh
from benchmarks.confidence.menu import MENU, tightest, tried
from benchmarks.confidence.record import Recording, examples, record, strength
from benchmarks.confidence.recorded import same_words
from benchmarks.confidence.scores import N_CTX
from benchmarks.confidence.tasks import TASKS, Task, task
from benchmarks.table import wide
from edgeai.calibrate.fit import Fit, Fitting, fit
from edgeai.calibrate.used import Attempt, mark
from edgeai.edge import Edge
from edgeai.monitor import metrics
from edgeai.monitor.contract import SUFFIX, Binding, Contract, save
from edgeai.monitor.examples import Example, prompt_key, split
from edgeai.monitor.fitting import fit_score
from edgeai.monitor.outcomes import outcomes
from edgeai.monitor.promise import Promise
from edgeai.scorers import SCORERS

__all__ = ["measure"]

FOLDER = Path(edgeai.__file__).parent / "contracts"
FIXED: Mapping[str, Promise] = {
    "clinc_oos": Promise.parse("error<=0.1@0.9"),
    "banking10": Promise.parse("error<=0.1@0.9"),
}
SCORER = {"slots2": "normalised", "arithmetic": "numeric"}
FORM_CHOSEN_ON = 120
COLUMNS = (
    "contract",
    "promise",
    "threshold",
    "kept / n",
    "wrong",
    "coverage",
    "base error",
    "AUROC",
    "score",
)


def measure() -> str:
    """The table; the files are written beside the package's code. About fifteen minutes, once."""
    FOLDER.mkdir(exist_ok=True)
    lines = []
    with Edge(engine="llamacpp", n_ctx=N_CTX, ledger=False) as edge:
        for name in TASKS:
            binding, rows = record(edge, task(name))
            if name in FIXED:
                lines.append(_make(task(name), binding, rows, rows[:FORM_CHOSEN_ON], FIXED[name]))
            else:
                more = fresh(name)
                lines.append(_make(more, binding, (*rows, *record(edge, more)[1]), rows, None))
    return wide(COLUMNS, lines)


def _make(
    about: Task,
    binding: Binding,
    rows: tuple[Recording, ...],
    spent: Sequence[Recording],
    promise: Promise | None,
) -> list[str]:
    """Fit and certify; write the files, or only say why not. ``spent`` rows serve for fitting only."""
    name = SCORER.get(about.name, "choice")
    about = replace(about, right=lambda answer, gold: SCORERS[name](answer, list(gold)))
    binding = replace(binding, scorer=name)
    used = {prompt_key(row.item.text) for row in spent}
    chosen, data = _examples(about, rows, () if promise else used)
    promise = promise or _promise(data, used)
    path = FOLDER / f"{about.name}{SUFFIX}"
    path.unlink(missing_ok=True)
    if promise is None:
        return [about.name, "none", "nothing of the menu is clearly feasible", *[""] * (len(COLUMNS) - 3)]
    with _fresh_notes():
        form = Attempt(binding=binding, promise=promise, settings="what came before", examples=())
        mark(form, sorted(used))
        found = fit(data, promise, binding, Fitting())
    if found.certificate is None:
        assert found.refusal is not None
        return [about.name, str(promise), f"refused: {found.refusal.why}", *[""] * (len(COLUMNS) - 3)]
    contract = Contract(
        promise=promise,
        binding=binding,
        pipeline=replace(found.pipeline, strength=chosen),
        certificate=found.certificate,
        notes=_notes(about, found),
    )
    save(contract, path)
    (FOLDER / f"{about.name}.task.json").write_text(_head(about), "utf-8")
    return _line(contract, found)


def _promise(data: Sequence[Example], used: Collection[str]) -> Promise | None:
    """What training shows to be clearly feasible for queries like those that will certify."""
    parts = split(data)
    held = [example for example in parts.calibration if example.key not in used]
    train = [*parts.train, *(example for example in parts.calibration if example.key in used)]
    alike = np.array([row for row, example in enumerate(train) if example.key not in used])
    seen = outcomes(train, fit_score(train).cross_fitted).take(alike)
    for text in MENU:
        one = tried(Promise.parse(text), seen, len(held))
        print(f"{one.promise}: {one.passes:.2f} of the resamples pass, coverage {one.coverage:.2f}")
    found = tightest(seen, len(held))
    return None if found is None else found.promise


def _examples(
    about: Task, rows: tuple[Recording, ...], used: Collection[str]
) -> tuple[float | None, list[Example]]:
    """The examples under the strength of contextual calibration that is best in training and ``used``."""
    parts = split(examples(about, rows, strength=None, agrees=same_words))
    keys = {example.key for example in parts.train}.union(used)
    chosen = strength(about, tuple(row for row in rows if prompt_key(row.item.text) in keys))
    return chosen, list(examples(about, rows, strength=chosen, agrees=same_words))


@contextmanager
def _fresh_notes() -> Iterator[None]:
    """Notes of used labels that end with the block: a benchmark may be repeated."""
    before = os.environ.get("EDGEAI_HOME")
    with TemporaryDirectory() as home:
        os.environ["EDGEAI_HOME"] = home
        try:
            yield
        finally:
            del os.environ["EDGEAI_HOME"]
            if before is not None:
                os.environ["EDGEAI_HOME"] = before


def _area(found: Fit) -> float:
    held = found.calibration_outcomes
    assert held.wrong is not None
    return metrics.auroc(held.scores, ~held.wrong) or float("nan")


def _notes(about: Task, found: Fit) -> Mapping[str, str]:
    proof = found.certificate
    assert proof is not None
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "data": about.source,
        "model": "SmolLM2-135M-Instruct Q4_1 (Apache-2.0), llama.cpp, CPU",
        "metrics": f"AUROC {_area(found):.3f} and coverage {proof.coverage:.2f} on {proof.n} labels",
        "score": _features(found),
    }


def _features(found: Fit) -> str:
    probe = f" ({found.fitted.probe})" if found.fitted.probe else ""
    return f"{found.fitted.choice.name}{probe}"


def _line(contract: Contract, found: Fit) -> list[str]:
    proof = contract.certificate
    return [
        contract.binding.task or "",
        str(contract.promise),
        f"{proof.threshold:.3f}",
        f"{proof.kept} / {proof.n}",
        str(proof.errors),
        f"{proof.coverage:.2f}",
        f"{proof.base_error or 0:.2f}",
        f"{_area(found):.3f}",
        _features(found),
    ]


def _head(about: Task) -> str:
    """The fixed part of the queries, without which the contract holds for nothing."""
    table = {
        "method": about.method,
        "task": about.name,
        "choices": about.labels,
        "examples": about.examples,
        "max_tokens": about.max_tokens if about.method == "ask" else None,
        "source": about.source,
    }
    return json.dumps(table, indent=1, ensure_ascii=False) + "\n"
