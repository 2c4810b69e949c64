"""Calibrating from the command line: on the real model, interrupted, refused, and without leave."""

import json
import random
import re
import signal
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import pytest

from edgeai import Edge, Policy
from edgeai.cli.exits import Exit
from edgeai.config import Settings
from edgeai.monitor import contract
from edgeai.testing import FakeCloud, FakeEngine
from tests.cli.conftest import EDGEAI, Run

KINDS = {
    "sport": ["match", "goal", "team", "score", "league", "coach", "player", "race"],
    "food": ["soup", "bread", "cheese", "pasta", "cake", "rice", "salad", "fish"],
}
NOISE = ["zorp", "flim", "quib", "vant", "drell", "moop", "snarg", "tiff", "wump", "yeld", "brax", "crin"]


def tiny(path: Path) -> Path:
    """Forty short texts: some are clear, and most mean nothing, with a label by the throw of a coin."""
    coin = random.Random(3)
    clear = [(f"{word} {end}", label) for label, words in KINDS.items() for word, end in pairwise(words)]
    noise = [(f"{word} {end}", coin.choice([*KINDS])) for word in NOISE for end in ("ab", "oo", "ix")]
    rows = [
        {"prompt": text, "reference": label, "choices": [*KINDS]} for text, label in clear[::2] + noise[:33]
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:40]))
    return path


def test_a_real_model(run: Run, model: Path, home: Path, tmp_path: Path) -> None:
    """Forty prompts on the default model, with a break: a report, and a contract that loads and fits.

    Ctrl-C ends it at once with code 130, and the same command asks only the rest. Another promise on the same
    labels is refused with code 6; it has a report, too.
    """
    data, out, page = (
        tiny(tmp_path / "kinds.jsonl"),
        tmp_path / "kinds.contract.json",
        tmp_path / "report.html",
    )
    command = ["calibrate", str(data), "--contract", "overall-error<=0.7@0.6", "-o", str(out)]
    told = interrupted(command, home)
    assert (
        stopped := re.search(r"Stopped; (\d+) of 40 queries are done and kept\. The same command", told)
    ), told
    shown = run(*command, "--json", "--report", str(page))
    assert shown.code == 0, shown.err
    assert shown.err.splitlines()[0] == f"asking: {stopped[1]} of 40"
    found = json.loads(shown.out)
    assert found["verdict"].startswith("Certified: ")
    assert found["counts"]["train"] + found["counts"]["calibration"] == 40
    made = contract.load(out)
    assert (made.binding.engine, made.binding.scorer) == ("llamacpp", "choice")
    text = page.read_text()
    assert text.count("<svg") == 4
    assert "zorp" not in text
    again = run("contracts", "show", str(out), "--json")
    assert json.loads(again.out)["fits"] is True
    with Edge(policy=Policy(contract=out), ledger=False) as edge:
        answer = edge.choose("zorp ab", [*KINDS]).answer
    assert answer.confidence is not None
    assert answer.certified == ((answer.score or 0) >= made.certificate.threshold), answer.explanation
    refused = run("calibrate", str(data), "--contract", "error<=0.5@0.6", "--report", str(page))
    assert refused.code == Exit.POLICY
    assert "were used by an earlier calibration" in refused.err
    assert "Not certified" in page.read_text()


def interrupted(command: list[str], home: Path) -> str:
    """Run it in a child, press Ctrl-C after three answers, and give what it said."""
    child = subprocess.Popen([*EDGEAI, *command], stderr=subprocess.PIPE, text=True)
    n_done = 0
    while n_done < 3:
        assert child.poll() is None
        time.sleep(0.005)
        n_done = sum(path.read_bytes().count(b"\n") for path in home.rglob("*.work.jsonl"))
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == Exit.STOPPED
    return said


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> FakeCloud:
    """The cloud that the verb finds, beside an engine that needs no model."""
    cloud = FakeCloud("An apple.")

    def open_edge(settings: Settings) -> Edge:
        policy = Policy(privacy=settings.privacy)
        return Edge(engine=FakeEngine("An apple."), cloud=cloud, policy=policy, ledger=False)

    monkeypatch.setattr("edgeai.cli.opening.open_edge", open_edge)
    return cloud


def test_it_needs_leave_and_a_yes(run: Run, cloud: FakeCloud, tmp_path: Path) -> None:
    """Under privacy "local", without --yes, or above --max-usd nothing is sent, and the codes tell which."""
    data = tmp_path / "plain.jsonl"
    data.write_text('{"prompt": "Name a fruit."}\n')
    command = ("calibrate", str(data), "--contract", "disagreement<=0.2@0.9")
    assert run(*command).code == Exit.POLICY
    unanswered = run(*command, "--privacy", "allow")
    assert unanswered.code == Exit.USAGE
    assert "1 queries (" in unanswered.err
    assert unanswered.err.endswith("Give --yes.\n")
    assert run(*command, "--privacy", "allow", "--yes", "--max-usd", "0").code == Exit.POLICY
    assert cloud.received == []
    agreed = run(*command, "--privacy", "allow", "--yes")
    assert len(cloud.received) == 1
    assert "too little to learn from" in agreed.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--contract", "error<0.1"), "is not a promise"),
        (("--contract", "error<=0.1@0.9", "--out", "no/such/folder/x.json"), "There is no folder"),
        (("--contract", "error<=0.1@0.9", "--report", "."), ". is a folder"),
        (("--contract", "error<=0.1@0.9", "--method", "extract"), "takes no choices"),
        (("--contract", "error<=0.1@0.9", "--scorer", "exakt"), "There is no scorer"),
        (("--contract", "error<=0.1@0.9", "--examples", "none.jsonl"), "cannot be read"),
    ],
)
def test_wrong_usage(run: Run, cloud: FakeCloud, tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    """What does not fit is refused before anything is asked."""
    shown = run("calibrate", str(tiny(tmp_path / "kinds.jsonl")), *options)
    assert shown.code == Exit.USAGE
    assert said in shown.err
