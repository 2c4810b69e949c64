"""Calibrating on recorded answers: contracts, refusals, interrupts, and labels that are used once."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgeai import Edge
from edgeai.calibrate.calibration import Calibration, calibrate
from edgeai.calibrate.cloud import Estimate
from edgeai.calibrate.fit import Fitting
from edgeai.calibrate.task import Task
from edgeai.calibrate.work import folder
from edgeai.cloud import Cloud
from edgeai.errors import (
    BudgetExceeded,
    Cancelled,
    CloudTimeout,
    ConfigError,
    ContractInfeasible,
    PrivacyViolation,
)
from edgeai.monitor import contract
from edgeai.policy import Policy
from edgeai.testing import FakeCloud, FakeEngine
from tests.calibrate.devices import BINDING, watcher, write

TASK = Task(method="choose")
FAST = Fitting(signals=("p",))  # one set of features instead of all
PROMISE = "error<=0.3@0.9"


def edge(cloud: Cloud | None = None, policy: Policy = Policy()) -> Edge:
    return Edge(engine=FakeEngine(), cloud=cloud, policy=policy, ledger=False)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "clinc.jsonl", "clinc_oos")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    """One calibration, for the tests that only look."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEAI_HOME", str(tmp_path_factory.mktemp("home")))
        path = write(tmp_path_factory.mktemp("data") / "clinc.jsonl", "clinc_oos")
        return calibrate(edge(), path, PROMISE, task=TASK, watch=watcher("clinc_oos"))


def test_a_contract_comes_out_and_can_be_loaded(made: Calibration, tmp_path: Path) -> None:
    """Certified, bound to what was watched and to the scorer, and the same after saving and loading."""
    made.save(tmp_path / "x.contract.json")
    loaded = contract.load(tmp_path / "x.contract.json")
    assert loaded == made.contract
    assert loaded.binding == replace(BINDING, scorer="choice")
    assert loaded.notes["data"] == "clinc.jsonl"
    proof = loaded.certificate
    assert proof.n + proof.n_train == 400
    assert proof.errors / proof.kept <= 0.3
    assert 0.3 < proof.coverage < 1


def test_the_report_agrees_with_the_contract(made: Calibration) -> None:
    """Counts, verdict and curves tell of the same test; it can be written as JSON."""
    found = made.report
    assert made.contract is not None
    proof = made.contract.certificate
    assert (found.counts.calibration, found.counts.train) == (proof.n, proof.n_train)
    assert found.verdict.startswith(
        "Certified: of the answers kept on the device a share of at most 0.3 is wrong"
    )
    assert found.split == "calibration"
    assert len(found.curves.right) + len(found.curves.wrong) == proof.n
    place = min(found.curves.risk, key=lambda point: abs(point[0] - proof.coverage))
    assert place[1] == pytest.approx(proof.errors / proof.kept, abs=0.02)
    names = {score.name: score for score in found.scores}
    assert names.keys() == {"random", "prompt length", "pmax", "our score", "oracle"}
    assert (names["our score"].auroc or 0) > 0.85 > (names["random"].auroc or 1)
    assert (names["our score"].apgr or 0) > (names["random"].apgr or 1)
    assert found.cloud_is_assumed
    assert found.costs is not None
    assert found.costs.escalated == pytest.approx(1000 * (1 - proof.coverage))
    assert found.costs.cloud_usd is None
    assert found.costs.device_s == 0.1


def test_it_goes_on_after_an_interrupt(data: Path) -> None:
    """What was done is not asked again, and the contract is that of a run without a break."""
    with pytest.raises(KeyboardInterrupt):
        calibrate(edge(), data, PROMISE, task=TASK, fitting=FAST, watch=watcher("clinc_oos", stop_after=150))
    [work] = folder().glob("*.work.jsonl")
    with work.open("ab") as file:
        file.write(b'{"row": "torn')
    steps: list[int] = []
    again = calibrate(
        edge(), data, PROMISE, task=TASK, fitting=FAST, watch=watcher("clinc_oos", stop_after=251),
        progress=lambda done, total: steps.append(done),
    )  # fmt: skip
    assert steps[0] == 150
    assert steps[-1] == 400
    whole = calibrate(
        edge(), data, PROMISE, task=TASK, fitting=FAST, watch=watcher("clinc_oos"), restart=True
    )
    assert again.contract == whole.contract
    assert "clinc" not in work.read_text()  # no prompt, no path


def test_new_rows_are_all_that_is_asked(data: Path, tmp_path: Path) -> None:
    """More data, the same settings: only the new prompts are asked."""
    few = write(tmp_path / "few.jsonl", "clinc_oos", n=300)
    calibrate(edge(), few, "error<=0.4@0.8", task=TASK, fitting=FAST, watch=watcher("clinc_oos"))
    calibrate(
        edge(), data, "error<=0.4@0.8", task=TASK, fitting=FAST, watch=watcher("clinc_oos", stop_after=101)
    )


def test_labels_are_used_once(data: Path, tmp_path: Path) -> None:
    """The same test may be repeated; another promise on the same labels is refused; new prompts allow it."""
    few = write(tmp_path / "few.jsonl", "clinc_oos", n=200)
    first = calibrate(edge(), few, PROMISE, task=TASK, fitting=FAST, watch=watcher("clinc_oos"))
    assert (
        calibrate(edge(), few, PROMISE, task=TASK, fitting=FAST, watch=watcher("clinc_oos")).contract
        == first.contract
    )
    fished = calibrate(edge(), few, "error<=0.4@0.8", task=TASK, fitting=FAST, watch=watcher("clinc_oos"))
    assert fished.contract is None
    assert fished.report.counts.calibration == 0
    assert "no labels are left" in str(fished.refusal)
    assert "used by an earlier calibration" in str(fished.refusal)
    with pytest.raises(ContractInfeasible):
        fished.save(tmp_path / "x.contract.json")
    more = calibrate(edge(), data, "error<=0.4@0.8", task=TASK, fitting=FAST, watch=watcher("clinc_oos"))
    assert more.contract is not None
    assert more.report.counts.reused == first.report.counts.calibration
    other = watcher("clinc_oos", binding=replace(BINDING, weights="v" * 64))
    assert calibrate(edge(), few, "error<=0.4@0.8", task=TASK, fitting=FAST, watch=other).contract is not None


def test_disagreement_asks_the_cloud(tmp_path: Path) -> None:
    """Without references the cloud is asked about every prompt, after its price was shown and accepted."""
    path = write(tmp_path / "clinc.jsonl", "clinc_oos", n=60, labels=False)
    cloud = FakeCloud("3")
    bills: list[Estimate] = []

    def confirm(bill: Estimate) -> bool:
        bills.append(bill)
        return True

    found = calibrate(
        edge(cloud, Policy(privacy="allow")), path, "disagreement<=0.3@0.8", task=TASK, fitting=FAST,
        watch=watcher("clinc_oos"), confirm=confirm,
    )  # fmt: skip
    assert len(cloud.received) == bills[0].queries == 60
    assert 0 < (bills[0].likely_usd or 0) < (bills[0].most_usd or 0)
    assert found.report.pairs.S == 1  # the cloud is the standard
    watch = watcher("clinc_oos")
    assert [row.example.agrees for row in found.outcomes] == [
        watch(f"clinc_oos {n}").answer.text == "3" for n in range(60)
    ]


def test_nothing_is_sent_without_leave(tmp_path: Path) -> None:
    """Privacy "local", no cloud, or a bill that is declined: the cloud gets nothing."""
    path = write(tmp_path / "clinc.jsonl", "clinc_oos", n=60, labels=False)
    cloud, watch = FakeCloud("3"), watcher("clinc_oos")
    with pytest.raises(PrivacyViolation):
        calibrate(edge(cloud), path, "disagreement<=0.3@0.8", task=TASK, fitting=FAST, watch=watch)
    with pytest.raises(ConfigError, match="there is none"):
        calibrate(
            edge(None, Policy(privacy="allow")),
            path,
            "disagreement<=0.3@0.8",
            task=TASK,
            fitting=FAST,
            watch=watch,
        )
    allowed = edge(cloud, Policy(privacy="allow"))
    with pytest.raises(Cancelled):
        calibrate(
            allowed,
            path,
            "disagreement<=0.3@0.8",
            task=TASK,
            fitting=FAST,
            watch=watch,
            confirm=lambda bill: False,
        )
    assert cloud.received == []


def test_a_failing_cloud_loses_nothing(tmp_path: Path) -> None:
    """Its error is raised, and the device's answer is never taken for the cloud's."""
    path = write(tmp_path / "clinc.jsonl", "clinc_oos", n=60, labels=False)
    dead = FakeCloud("3", error=CloudTimeout("no answer"))
    broke = Policy(privacy="allow", budget_usd={"query": 0.0})
    for cloud, policy, error in (
        (dead, Policy(privacy="allow"), CloudTimeout),
        (FakeCloud("3"), broke, BudgetExceeded),
    ):
        with pytest.raises(error):
            calibrate(
                edge(cloud, policy),
                path,
                "disagreement<=0.3@0.8",
                task=TASK,
                fitting=FAST,
                watch=watcher("clinc_oos"),
            )
    [work, *_] = folder().glob("*.work.jsonl")
    assert work.read_bytes() == b""


def test_quality_learns_a_router(data: Path) -> None:
    """With both sides' answers C is tested, and the router before generation is part of the pipeline."""
    cloud = FakeCloud("3")
    found = calibrate(
        edge(cloud, Policy(privacy="allow")),
        data,
        "quality>=0.8@0.9",
        task=TASK,
        fitting=FAST,
        watch=watcher("clinc_oos"),
    )
    assert len(cloud.received) == 400
    assert found.report.router
    assert found.contract is not None
    assert found.contract.certificate.audit_rate is not None
    assert not found.report.cloud_is_assumed


def test_what_cannot_be_certified_says_why(data: Path, tmp_path: Path) -> None:
    """A promise too strict for the data has a report and a refusal, and the labels that it would take."""
    found = calibrate(edge(), data, "error<=0.01@0.95", task=TASK, fitting=FAST, watch=watcher("clinc_oos"))
    assert found.contract is None
    assert found.refusal is not None
    assert found.refusal.labels == 334
    assert found.report.verdict.startswith("Not certified. ")
    assert found.report.split == "training, cross-fitted"
    assert found.report.costs is None
    same = tmp_path / "same.jsonl"
    same.write_text(
        "".join(
            json.dumps(json.loads(line) | {"reference": "nobody says this"}) + "\n"
            for line in data.read_text().splitlines()
        )
    )
    with pytest.raises(ContractInfeasible, match="too little to learn from"):
        calibrate(edge(), same, PROMISE, task=TASK, fitting=FAST, watch=watcher("clinc_oos"))


def test_shuffled_labels_are_not_certified(data: Path, tmp_path: Path) -> None:
    """References that belong to other prompts leave no signal, and nothing is promised."""
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    path = tmp_path / "shuffled.jsonl"
    path.write_text(
        "".join(
            json.dumps(row | {"reference": rows[(at * 7 + 13) % len(rows)]["reference"]}) + "\n"
            for at, row in enumerate(rows)
        )
    )
    found = calibrate(edge(), path, PROMISE, task=TASK, fitting=FAST, watch=watcher("clinc_oos"))
    assert found.contract is None


def test_settings_are_checked_before_any_work(data: Path, tmp_path: Path) -> None:
    """A promise without its labels, an unknown scorer, an odd bound: nothing is asked."""
    nothing = watcher("clinc_oos", stop_after=0)
    unlabelled = write(tmp_path / "none.jsonl", "clinc_oos", labels=False)
    with pytest.raises(ConfigError, match="needs references"):
        calibrate(edge(), unlabelled, PROMISE, task=TASK, fitting=FAST, watch=nothing)
    with pytest.raises(ConfigError, match="no scorer"):
        calibrate(edge(), data, PROMISE, task=TASK, fitting=FAST, watch=nothing, scorer="exakt")
    with pytest.raises(ConfigError, match="is not a promise"):
        calibrate(edge(), data, "errors<0.1", task=TASK, fitting=FAST, watch=nothing)
    with pytest.raises(ConfigError, match="good is 0"):
        calibrate(edge(), data, PROMISE, task=TASK, watch=nothing, fitting=Fitting(good=0))


def test_a_changed_model_ends_it(data: Path) -> None:
    """When the binding changes on the way, the outcomes do not belong together."""
    now, later = watcher("clinc_oos"), watcher("clinc_oos", binding=replace(BINDING, engine="other"))
    with pytest.raises(ConfigError, match="other conditions"):
        calibrate(
            edge(),
            data,
            PROMISE,
            task=TASK,
            fitting=FAST,
            watch=lambda text: later(text) if text.endswith("9") else now(text),
        )


def test_a_damaged_file_is_named(data: Path) -> None:
    """A line in the middle that is no outcome is not skipped, and --restart is the remedy."""
    with pytest.raises(KeyboardInterrupt):
        calibrate(edge(), data, PROMISE, task=TASK, fitting=FAST, watch=watcher("clinc_oos", stop_after=3))
    [work] = folder().glob("*.work.jsonl")
    lines = work.read_text().splitlines()
    work.write_text("\n".join([lines[0], "{}", lines[2]]) + "\n")
    with pytest.raises(ConfigError, match="line 2 is damaged"):
        calibrate(edge(), data, PROMISE, task=TASK, fitting=FAST, watch=watcher("clinc_oos"))
