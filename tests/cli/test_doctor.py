import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgeai import Answer, Reason
from edgeai.cli.exits import Exit
from edgeai.cli.findings import machine_findings
from edgeai.cli.private import scrub
from edgeai.cli.trial import try_out
from edgeai.devices.accelerators import Accelerator
from edgeai.devices.accelerators import State as DeviceState
from edgeai.devices.probe import probe
from edgeai.ledger import Ledger
from edgeai.monitor.codec import dumps, encode
from edgeai.monitor.drift import Drift
from edgeai.testing import forbid_network
from tests.cli.conftest import Run


def findings(run: Run, code: int) -> dict[str, dict[str, str]]:
    """What the doctor says about each thing, without touching the network."""
    with forbid_network() as attempts:
        shown = run("doctor", "--quick", "--json")
    assert attempts == []
    assert shown.code == code
    return {finding["about"]: finding for finding in json.loads(shown.out)}


def test_all_is_well(run: Run, model: Path) -> None:
    """With engine and model there is nothing to do, and the code is 0."""
    Ledger.open().close()
    found = findings(run, Exit.OK)
    assert {finding["state"] for finding in found.values()} == {"ok"}
    assert "right hashes" in found["model"]["found"]
    assert "nothing can leave" in found["cloud"]["found"]
    assert found["ledger"]["found"] == "0 queries"


def test_plain_text(run: Run, model: Path) -> None:
    """Without --json each thing has a line."""
    lines = run("doctor", "--quick").out.splitlines()
    assert [line[4:14].strip() for line in lines[:4]] == ["edgeai", "python", "system", "processor"]
    assert all(line.startswith("ok  ") for line in lines)


def test_a_missing_model(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A model that is not here is a problem with its remedy."""
    monkeypatch.setenv("EDGEAI_HOME", str(tmp_path / "empty"))
    found = findings(run, Exit.PROBLEM)["model"]
    assert found["remedy"] == "Pull it: edgeai models pull smollm2-135m-instruct"


def test_bad_settings_and_a_damaged_ledger(run: Run, model: Path, home: Path) -> None:
    """What is broken is named, and the rest is still looked at."""
    for folder in ("config", "data"):
        (home / folder).mkdir()
    (home / "config" / "edgeai.toml").write_text('privcay = "local"\n')
    (home / "data" / "ledger.sqlite3").write_bytes(b"no database" * 100)
    found = findings(run, Exit.PROBLEM)
    assert found["settings"]["remedy"] == "Did you mean privacy?"
    assert "cannot be used" in found["ledger"]["found"]
    assert found["model"]["state"] == "ok"


@pytest.mark.parametrize(
    ("variables", "state", "words"),
    [
        ({"EDGEAI_CLOUD": "openai:x"}, "note", "privacy is local"),
        ({"EDGEAI_CLOUD": "openai:x", "EDGEAI_PRIVACY": "allow"}, "problem", "no key"),
        (
            {"EDGEAI_CLOUD": "ollama:x mistral:y", "EDGEAI_PRIVACY": "allow"},
            "problem",
            "mistral:y has no key",
        ),
        ({"EDGEAI_CLOUD": "skynet:x", "EDGEAI_PRIVACY": "allow"}, "problem", "names no cloud"),
        ({"EDGEAI_CLOUD": "ollama:x", "EDGEAI_PRIVACY": "allow"}, "ok", "not contacted"),
        (
            {"EDGEAI_CLOUD": "openai:x", "EDGEAI_PRIVACY": "allow", "OPENAI_API_KEY": "k"},
            "ok",
            "not contacted",
        ),
        (
            {
                "EDGEAI_CLOUD": "openai:x",
                "EDGEAI_PRIVACY": "allow",
                "EDGEAI_CLOUD_BASE_URL": "http://127.0.0.1:1/v1",
            },
            "ok",
            "not contacted",
        ),
    ],
)
def test_the_cloud(
    run: Run,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    state: str,
    words: str,
) -> None:
    """A configured cloud is described and never contacted; a missing key is a problem."""
    for variable in ("OPENAI_API_KEY", "MISTRAL_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = findings(run, Exit.PROBLEM if state == "problem" else Exit.OK)["cloud"]
    assert found["state"] == state
    assert words in found["found"]


def test_contracts_and_their_drift(run: Run, model: Path) -> None:
    """One that was never audited is a note; one that audits have refuted is a problem with its remedy."""
    answer = Answer(text="", source="device", model="m", reason=Reason.CONFIDENT, explanation="")
    drift = Drift(rate=0.1)
    with Ledger.open() as ledger:
        ledger.record(replace(answer, contract="a" * 64))
        found = findings(run, Exit.OK)["contract"]
        assert (found["state"], found["found"]) == (
            "note",
            "aaaaaaaaaaaa… was used and never audited: its drift is not watched",
        )
        ledger.history.change_drift("a" * 64, lambda _: dumps(encode(drift.observe(agrees=True))))
        assert "no sign of drift: 0 of 1" in findings(run, Exit.OK)["contract"]["found"]
        for _ in range(5):
            drift = drift.observe(agrees=False)
        ledger.history.change_drift("a" * 64, lambda _: dumps(encode(drift)))
    found = findings(run, Exit.PROBLEM)["contract"]
    assert "the promise no longer holds: 5 of 5" in found["found"]
    assert found["remedy"] == "Calibrate again"


def test_each_package_is_tried(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --quick the model's packages say a token, each in a process of its own."""
    monkeypatch.setenv("EDGEAI_PROFILE", "intel-n100-kiosk")
    shown = json.loads(run("doctor", "--json").out)
    [trial] = [finding for finding in shown if finding["about"] == "trial"]
    assert trial["state"] == "ok"
    assert "smollm2-135m-instruct@llamacpp-q4_1 works: opened in" in trial["found"]
    assert trial["found"].endswith(" s (the profile aims at 1.20)")


def test_a_trial_that_fails_says_why(tmp_path: Path) -> None:
    """An error is its own words, a child that hangs has a limit."""
    assert "There is no model at" in str(try_out(str(tmp_path / "nothing.gguf")).why)
    assert try_out("x", limit_s=0.01).why == "it did not answer within 0 s"


@pytest.mark.parametrize(
    ("vendor", "state", "words"),
    [
        ("Intel", "no driver", "intel_vpu"),
        ("AMD", "no permission", "-aG render"),
        ("Qualcomm", "usable", "onnxruntime-qnn"),
        ("Intel", "usable", "onnxruntime-openvino"),
        ("AMD", "usable", "Ryzen AI"),
    ],
)
def test_what_a_device_lacks(vendor: str, state: DeviceState, words: str) -> None:
    """Driver, permission and package each have their own remedy."""
    device = Accelerator(kind="npu", vendor=vendor, node="/dev/accel/accel0", state=state)
    found = {f.about: f for f in machine_findings(replace(probe(), accelerators=(device,)), "auto")}
    assert found["npu"].state == "note"
    assert words in str(found["npu"].remedy)


def test_a_package_that_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any of those that reach the device."""
    monkeypatch.setattr("edgeai.cli.findings._has", lambda package: package == "onnxruntime-ep-openvino")
    device = Accelerator(kind="npu", vendor="Intel", node="/dev/accel/accel0", state="usable")
    found = {f.about: f for f in machine_findings(replace(probe(), accelerators=(device,)), "auto")}
    assert found["npu"].state == "ok"


def test_a_gpus_meter_needs_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing else measures energy."""
    monkeypatch.setattr("edgeai.devices.energy.find_meter", lambda: None)
    monkeypatch.setattr("edgeai.devices.files.ROOT", Path("/nowhere"))
    device = Accelerator(kind="gpu", vendor="NVIDIA", state="usable")
    found = {f.about: f for f in machine_findings(replace(probe(), accelerators=(device,)), "auto")}
    assert "nvidia-ml-py" in str(found["energy"].remedy)


def test_a_report_has_no_private_data(
    run: Run, model: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither user nor host, no path and no address; what helps is in it."""
    monkeypatch.setattr("getpass.getuser", lambda: "ana.silva")
    monkeypatch.setattr("platform.node", lambda: "anas-laptop")
    monkeypatch.setenv("EDGEAI_CLOUD", "vllm:ana.silva@http://10.0.0.5:8000/v1")
    target = tmp_path / "report.json"
    run("doctor", "--quick", "--report", str(target))
    text = target.read_text()
    for private in ("ana.silva", "anas-laptop", "10.0.0.5", str(home), str(tmp_path), str(Path.home())):
        assert private not in text
    facts = json.loads(text)
    assert facts["machine"]["processor"]["cores"] >= 1
    assert {finding["about"] for finding in facts["findings"]} >= {"processor", "engine", "model"}


def test_scrubbing() -> None:
    """Paths of all systems, and addresses; not what only looks like one."""
    assert scrub(r"C:\\Users\\ana\\x.gguf, ~/a b, /home/ana/m: gone") == "<path>, <path> b, <path>: gone"
    assert scrub({"a": ["https://h/x", "AMD w/ Radeon", "tok/s", "/dev/accel/accel0"]}) == {
        "a": ["<address>", "AMD w/ Radeon", "tok/s", "/dev/accel/accel0"]
    }


def test_where_the_engine_runs(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the app for a model of the catalog, unless the settings say otherwise; what cannot be is told."""
    assert "the app's process" in findings(run, Exit.OK)["isolation"]["found"]
    monkeypatch.setenv("EDGEAI_ISOLATION", "process")
    assert "of its own" in findings(run, Exit.OK)["isolation"]["found"]
    monkeypatch.setenv("EDGEAI_ISOLATION", "thread")
    monkeypatch.setenv("EDGEAI_ISOLATION_MEMORY_BYTES", "1000000000")
    assert findings(run, Exit.PROBLEM)["isolation"]["remedy"] == 'Use isolation="process"'
