"""What a calibration writes down, and the strength that is chosen from it."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeai.calibrate.collect import scorer_name
from edgeai.calibrate.data import Row
from edgeai.calibrate.scorers import scorer
from edgeai.calibrate.strength import best_strength
from edgeai.calibrate.work import Outcome, folder, open_work, row_key
from edgeai.errors import CloudTimeout, StoreLocked
from edgeai.monitor.examples import Example, Observation, prompt_key
from edgeai.types import LabelScores

SEEN = Observation(
    features={"a": 1.5, "b": None, "c": math.inf}, categories={"label": "x", "task": None},
    prefixes={4: {"a": 0.5}}, words={7: 2.0}, hidden=np.array([0.25, -1.5], np.float32),
)  # fmt: skip
LABELS = LabelScores(logprobs=(-1.0, -2.0), content_free=(-0.5, -3.0), strength=1.0)
OUTCOME = Outcome(
    example=Example(key="k", seen=SEEN, right=0.5, cloud=1.0, agrees=False), device_s=0.5, device_tokens=3,
    cloud_s=1.0, cloud_usd=0.01, prompt_tokens=5, completion_tokens=2, labels=LABELS, cloud_label="y",
)  # fmt: skip


def test_what_is_written_is_what_is_read() -> None:
    """All of an outcome comes back in a later run, except that an infinite feature is unknown."""
    with open_work("w") as work:
        work.add("row", OUTCOME)
        now = work.done["row"]
    with open_work("w") as work:
        later = work.done["row"]
    for found in (now, later):
        hidden = found.example.seen.hidden
        assert hidden is not None
        assert hidden.dtype == np.float32
        assert hidden.tolist() == [0.25, -1.5]
        seen = replace(SEEN, features={"a": 1.5, "b": None, "c": None}, hidden=None)
        example = replace(found.example, seen=replace(found.example.seen, hidden=None))
        assert replace(found, example=example) == replace(
            OUTCOME, example=replace(OUTCOME.example, seen=seen)
        )
    with open_work("w", restart=True) as work:
        assert work.done == {}


def test_the_file_is_private_and_locked() -> None:
    """Only its owner may read it; two runs never share it; an error in the block is no error of the file."""
    with open_work("w") as work:
        assert work.path.parent == folder()
        assert work.path.stat().st_mode & 0o077 == 0
        with pytest.raises(StoreLocked), open_work("w"):
            pass
    with pytest.raises(CloudTimeout), open_work("w"):
        raise CloudTimeout("an OSError by inheritance")
    with open_work("w"):
        pass


def test_a_row_is_known_by_prompt_and_reference() -> None:
    """Another reference is another row."""
    first, second = (Row(line=1, prompt="a", reference=text) for text in ("x", "y"))
    assert row_key(first) != row_key(second)
    assert row_key(first) == row_key(replace(first, line=2))


def test_a_callable_is_named_with_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Editing the function makes another scorer of it, so that old outcomes are not taken for its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_marks.py").write_text("def half(answer, reference): return 0.5\n")
    name = scorer_name("my_marks:half")
    assert name.startswith("my_marks:half ")
    (tmp_path / "my_marks.py").write_text("def half(answer, reference): return 0.7\n")
    assert scorer_name("my_marks:half") != name
    assert scorer_name("exact") == "exact"


@pytest.mark.parametrize("right", ["x", "y"])
def test_the_strength_is_chosen_by_right_answers(right: str) -> None:
    """The raw scores say x, the corrected ones y: what the references say decides."""
    rows = [Row(line=n, prompt=f"q{n}", reference=right) for n in range(40)]
    done = [replace(OUTCOME, example=replace(OUTCOME.example, key=prompt_key(row.prompt))) for row in rows]
    best, examples = best_strength(
        done, rows, ("x", "y"), scorer("choice"), good=1.0, share=0.5, by_cloud=False
    )
    assert best == (0.0 if right == "x" else 1.0)
    assert {example.seen.categories["label"] for example in examples} == {right}
    assert {(example.right, example.agrees) for example in examples} == {(1.0, right == "y")}
    assert examples[0].seen.features["label_p"] != examples[0].seen.features.get("a")


def test_the_cloud_decides_without_references() -> None:
    """Under "disagreement" the strength follows the cloud's labels."""
    rows = [Row(line=n, prompt=f"q{n}") for n in range(40)]
    done = [replace(OUTCOME, example=replace(OUTCOME.example, key=prompt_key(row.prompt))) for row in rows]
    for label, strength in (("x", 0.0), ("y", 1.0)):
        told = [replace(outcome, cloud_label=label) for outcome in done]
        best, examples = best_strength(
            told, rows, ("x", "y"), scorer("choice"), good=1.0, share=0.5, by_cloud=True
        )
        assert best == strength
        assert all(example.agrees for example in examples)
    none = [replace(outcome, labels=None) for outcome in done]
    assert best_strength(none, rows, (), scorer("choice"), good=1.0, share=0.5, by_cloud=True)[0] is None
