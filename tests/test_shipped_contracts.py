"""The contracts that the package brings for the default model."""

import json
from pathlib import Path
from typing import Any

import pytest

import edgeai
from edgeai import Edge, Policy
from edgeai.cli import main
from edgeai.monitor.contract import SUFFIX, load
from edgeai.types import Message

FOLDER = Path(edgeai.__file__).parent / "contracts"
SHIPPED = sorted(FOLDER.glob(f"*{SUFFIX}"))
WEIGHTS = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# An easy question for each task, of our own, and its answer.
EASY = {
    "arithmetic": ("What is 3 * 2? Answer with the number only.", "3 * 2 = 6"),
    "banking10": ("How do I change the PIN of my card?", "pin"),
    "clinc_oos": ("what is the weather like in paris today", "weather"),
    "headlines": ("gold ends up 1.2% at $1,250.40 an ounce", "up"),
    "slots2": ("Message: A table for 4 people, please.\nQuestion: What is the number of people?", "4"),
}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name.removesuffix(SUFFIX))
def test_a_shipped_contract_certifies_a_live_answer(path: Path, model_path: Path) -> None:
    """It is for the default model's own file, tells its data and date, and keeps an easy answer."""
    contract = load(path)
    head: dict[str, Any] = json.loads((FOLDER / path.name.replace(SUFFIX, ".task.json")).read_text("utf-8"))
    question, answer = EASY[head["task"]]
    assert contract.binding.weights == WEIGHTS
    assert {"date", "data", "metrics", "model"} <= contract.notes.keys()
    with Edge(model_path, engine="llamacpp", policy=Policy(contract=path), ledger=False) as edge:
        if head["method"] == "choose":
            examples = [(text, label) for text, label in head["examples"]]
            found = edge.choose(question, head["choices"], examples=examples, task=head["task"]).answer
            other = edge.choose(question, head["choices"], examples=examples[:1], task=head["task"]).answer
        else:
            turns = [(Message("user", a), Message("assistant", b)) for a, b in head["examples"]]
            asked = [*(turn for pair in turns for turn in pair), Message("user", question)]
            found = edge.ask(asked, task=head["task"], max_tokens=head["max_tokens"])
            strange = [Message("system", "Be quick."), *asked]
            other = edge.ask(strange, task=head["task"], max_tokens=head["max_tokens"])
    assert found.text == answer
    assert found.certified, found.explanation
    assert not other.certified
    assert "calibrated for a fixed prompt head" in other.explanation


def test_contracts_are_shipped() -> None:
    """There are some, each has its task beside it, and the page of attributions names them all."""
    page = (FOLDER / "README.md").read_text("utf-8")
    assert SHIPPED
    for path in SHIPPED:
        assert path.name in page
        assert path.with_name(path.name.replace(SUFFIX, ".task.json")).is_file()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name.removesuffix(SUFFIX))
def test_contracts_show_says_that_it_fits(
    path: Path, model_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The verb compares what a live answer is compared with."""
    with pytest.raises(SystemExit):
        main(["contracts", "show", str(path), "--model", str(model_path)])
    assert "It is for this model." in capsys.readouterr().out
