import json
from pathlib import Path

import pytest

from edgeai.cli.exits import Exit
from edgeai.devices.memory import Memory
from edgeai.devices.profiles import load_profiles
from tests.cli.conftest import Run


def test_the_machine_and_its_profile(run: Run) -> None:
    """A line for each thing, the profile, and why others were passed over."""
    shown = run("devices")
    assert shown.code == 0
    lines = {line[:13].strip(): line[13:] for line in shown.out.splitlines() if line[0] != " "}
    assert {"processor", "memory", "profile"} <= lines.keys()
    assert lines["profile"].partition(":")[0] in {profile.name for profile in load_profiles()}
    assert " should be " in shown.out
    assert ", not installed: edgeai " in lines["suits it"]


def test_json(run: Run, model: Path) -> None:
    """All that is known, each rule's verdict, and the plan for a model."""
    facts = json.loads(run("devices", "smollm2-135m-instruct", "--n-ctx", "1024", "--json").out)
    assert facts["machine"]["processor"]["cores"] >= 1
    assert any(candidate["matches"] for candidate in facts["candidates"])
    assert facts["plan"]["n_ctx"] == 1024
    terms = facts["plan"]["footprint"]
    assert facts["plan"]["total"] == sum(terms.values())


def test_what_a_model_takes(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it fits, in numbers; where it does not, what would."""
    monkeypatch.setenv("EDGEAI_PROFILE", "generic")
    shown = run("devices", "smollm2-135m-instruct").out
    assert "fits. It needs" in shown
    assert "chat: smollm2-135m-instruct, q4_1\n" in shown
    little = {"total": 8 << 30, "available": 600_000_000}
    monkeypatch.setattr("edgeai.devices.probe.read_memory", lambda root: Memory(**little))
    shown = run("devices", "smollm2-135m-instruct").out
    assert "DOES NOT FIT" in shown
    assert "would fit: smollm2-135m-instruct@llamacpp-q4_1 with n_ctx=" in shown


def test_an_unknown_profile(run: Run) -> None:
    """A name there is none of is wrong usage."""
    assert run("devices", "--profile", "toaster").code == Exit.USAGE
