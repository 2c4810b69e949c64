"""Leaks and false alarms of redaction. Leaks: generated prompts with one secret each, in nine languages and
ten disguises; a leak is a secret of which any character is left. False alarms: texts of public data sets in
the folder that EDGEAI_DATA names, in which something is taken for a secret; announced names and addresses,
which may be real, are counted apart.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks.planted import MAKERS, Planted, planted
from benchmarks.table import Row
from edgeai.egress import Redaction
from edgeai.egress.recognise import find

PER_SOURCE = 800
STRICT = {"EMAIL", "PHONE", "CARD", "IBAN", "KEY", "ID"}
REAL = {"NAME", "ADDRESS"}


def measure() -> list[Row]:
    """Search everything; without EDGEAI_DATA only the leaks."""
    return [*leaks(), *false_alarms()]


def leaks() -> Iterator[Row]:
    """One row a kind."""
    n, leaked = Counter[str](), Counter[str]()
    by_disguise = Counter[str]()
    for case in planted(seed=1, rounds=4):
        n[case.kind] += 1
        if is_leak(case):
            leaked[case.kind] += 1
            by_disguise[f"{case.kind} {case.disguise}"] += 1
    for kind in MAKERS:
        aim = "0" if kind in STRICT else ""
        where = ", ".join(
            f"{k.partition(' ')[2]}: {v}" for k, v in by_disguise.items() if k.startswith(f"{kind} ")
        )
        figure = f"{leaked[kind]} of {n[kind]}" + (f" ({where})" if where else "")
        yield Row(what=f"leaks, {kind}", figure=figure, aim=aim, reached=leaked[kind] == 0 if aim else None)


def is_leak(case: Planted) -> bool:
    """Whether any character of the secret would leave."""
    start = case.prompt.index(case.secret)
    spans = find(case.prompt, Redaction())
    return not any(a <= start and start + len(case.secret) <= b for a, b, _ in spans)


def false_alarms() -> Iterator[Row]:
    """One row for all clean texts, and one for the names and addresses in them."""
    if "EDGEAI_DATA" not in os.environ:
        yield Row(what="false alarms", figure="skipped: EDGEAI_DATA is not set")
        return
    texts, alarms, kinds = 0, 0, Counter[str]()
    for text in clean_texts(Path(os.environ["EDGEAI_DATA"])):
        found = {kind for _, _, kind in find(text, Redaction())}
        texts += 1
        alarms += bool(found - REAL)
        kinds.update(found)
    share = alarms / max(texts, 1)
    by_kind = ", ".join(f"{kind} {n}" for kind, n in kinds.most_common())
    yield Row(what=f"false alarms, {texts} texts", figure=f"{share:.2%}", aim="< 1 %", reached=share < 0.01)
    yield Row(what="texts by kind found", figure=by_kind or "none")


def clean_texts(data: Path) -> Iterator[str]:
    """Questions of GSM8K, NQ-open, IFEval and BIG-Bench Hard."""
    yield from (json.loads(line)["question"] for line in _lines(data / "gsm8k", PER_SOURCE))
    yield from (json.loads(line)["question"] for line in _lines(data / "nq_open", PER_SOURCE))
    yield from (json.loads(line)["prompt"] for line in _lines(data / "ifeval", PER_SOURCE))
    for task in sorted((data / "bbh").glob("*.json")):
        examples = json.loads(task.read_text("utf-8"))["examples"]
        yield from (example["input"] for example in examples[: PER_SOURCE // 20])


def _lines(folder: Path, limit: int) -> list[str]:
    path = sorted(folder.rglob("*.jsonl"))[0]
    return path.read_text("utf-8").splitlines()[:limit]


if __name__ == "__main__":
    from benchmarks.__main__ import main

    main(("redaction",))
