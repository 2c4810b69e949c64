"""The contracts that are shipped for the default model (Q4_1, llama.cpp), made as `edgeai calibrate` does.

The promise of each task was decided before its calibration labels were looked at. Half of the prompts, by
their hashes, fit the score; the others certify, once. Prompts that the form of the question was chosen on
(120 a classification, 50 messages, 36 sums) serve for fitting only. A promise that the test does not bear out
is refused, and the row says why; nothing is shipped for it.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import edgeai
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
from edgeai.monitor.promise import Promise
from edgeai.scorers import SCORERS

__all__ = ["measure"]

FOLDER = Path(edgeai.__file__).parent / "contracts"
PROMISES: Mapping[str, str] = {
    "clinc_oos": "error<=0.1@0.9",
    "banking10": "error<=0.1@0.9",
    "headlines": "error<=0.2@0.9",
    "slots2": "error<=0.2@0.9",
    "arithmetic": "error<=0.2@0.9",
}
SCORER = {"slots2": "normalised", "arithmetic": "numeric"}
FORM_CHOSEN_ON = {"clinc_oos": 120, "banking10": 120, "headlines": 120, "slots2": 50, "arithmetic": 36}
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
    """The table; the files are written beside the package's code."""
    FOLDER.mkdir(exist_ok=True)
    lines = []
    with Edge(engine="llamacpp", n_ctx=N_CTX, ledger=False) as edge:
        for name in TASKS:
            about = task(name)
            binding, rows = record(edge, about)
            lines.append(_make(about, binding, rows))
    return wide(COLUMNS, lines)


def _make(about: Task, binding: Binding, rows: tuple[Recording, ...]) -> list[str]:
    """Fit and certify; write the files, or only say why not."""
    name = SCORER.get(about.name, "choice")
    about = replace(about, right=lambda answer, gold: SCORERS[name](answer, list(gold)))
    binding = replace(binding, scorer=name)
    chosen, data = _examples(about, rows)
    promise = Promise.parse(PROMISES[about.name])
    with _fresh_notes():
        form = Attempt(binding=binding, promise=promise, settings="the form of the question", examples=())
        mark(form, [prompt_key(row.item.text) for row in rows[: FORM_CHOSEN_ON[about.name]]])
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
    save(contract, FOLDER / f"{about.name}{SUFFIX}")
    (FOLDER / f"{about.name}.task.json").write_text(_head(about), "utf-8")
    return _line(contract, found)


def _examples(about: Task, rows: tuple[Recording, ...]) -> tuple[float | None, list[Example]]:
    """The examples under the strength of contextual calibration that is best in training."""
    keys = {example.key for example in split(examples(about, rows, strength=None, agrees=same_words)).train}
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
