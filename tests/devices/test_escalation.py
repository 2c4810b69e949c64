"""What a profile says of leaving when the machine is on battery or hot, and what the app's policy allows."""

from dataclasses import replace
from itertools import count
from pathlib import Path
from textwrap import dedent

import pytest

from edgeai import Edge, Policy, Reason
from edgeai.devices.escalation import escalation, watch
from edgeai.devices.power import read_power
from edgeai.devices.probe import probe
from edgeai.devices.profiles import Frugality, PowerPolicy, Profile, choose
from edgeai.devices.schema import Figure
from edgeai.engines import DevicePlan, Engine, Throttled
from edgeai.engines.llamacpp import open_engine
from edgeai.engines.worker import open_engine as open_process
from edgeai.errors import ConfigError
from edgeai.paths import config_dir
from edgeai.testing import FakeCloud, FakeEngine
from edgeai.types import Answer, Escalation, Message, Request
from tests.devices.trees import Tree, battery, plant, zone

ALLOWED = Policy(privacy="allow")


def profile(hot: Escalation = "prefer", on_battery: Escalation = "keep") -> Profile:
    """A laptop's, with these rules."""
    laptop = choose("laptop-8gb", probe())
    rules = PowerPolicy(
        hot=Frugality(escalation=hot), battery=Frugality(escalation=on_battery), hot_c=laptop.power.hot_c
    )
    return replace(laptop, power=rules)


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        ({}, "usual"),
        (battery("Charging", 50) | zone("x86_pkg_temp", 60), "usual"),
        (battery("Discharging", 50) | zone("x86_pkg_temp", 60), "keep"),
        (battery("Charging", 50) | zone("x86_pkg_temp", 96), "prefer"),
        (battery("Discharging", 50) | zone("x86_pkg_temp", 96), "prefer"),
    ],
)
def test_what_recorded_machines_are_told(tree: Tree, told: Escalation, tmp_path: Path) -> None:
    """On battery and hot each has its rule; if both hold, heat's."""
    power = read_power(plant(tmp_path, tree))
    assert escalation(profile(), power) == told
    assert escalation(profile(hot="usual"), power) == ("keep" if power.on_battery else "usual")


def test_a_goal_is_like_a_battery(tmp_path: Path) -> None:
    """What is asked to save energy follows the battery's rule on the mains."""
    power = read_power(plant(tmp_path, battery("Charging", 50)))
    assert escalation(profile(), power, "battery") == "keep"


def test_the_machine_is_looked_at_every_five_seconds(tmp_path: Path) -> None:
    """And never where the profile says nothing."""
    looks = count()
    cool = read_power(tmp_path)
    now = [0.0]
    tell = watch(profile(), read=lambda: (next(looks), cool)[1], clock=lambda: now[0])
    for now[0] in (0.0, 1.0, 4.9, 5.0, 6.0):
        assert tell() == "usual"
    assert next(looks) == 2
    silent = watch(profile("usual", "usual"), read=lambda: (next(looks), cool)[1])
    assert silent() == "usual"
    assert next(looks) == 3


def test_threads_follow_the_state(tmp_path: Path) -> None:
    """Unplugged, fewer compute; on the mains again, as many as before."""
    fewer = Figure(value=2, provenance="estimated")
    frugal = replace(profile("usual", "usual"), power=PowerPolicy(battery=Frugality(threads=fewer)))
    plugs = iter(("Charging", "Discharging", "Charging"))
    told: list[int] = []
    now = count(step=10)
    look = watch(
        frugal,
        limit=told.append,
        read=lambda: read_power(plant(tmp_path / str(next(now)), battery(next(plugs), 50))),
        clock=lambda: next(now),
    )
    assert [look() for _ in range(3)] == ["usual"] * 3
    assert told[1] == 2
    assert told[0] == told[2] > 1000


def test_an_engine_is_told_between_queries(model_path: Path) -> None:
    """The next query computes with fewer threads and says the same; so in a process of its own."""
    plan = DevicePlan(n_ctx=256, n_threads=2)
    request = Request(messages=(Message("user", "Name the capital of Italy."),), max_tokens=8)

    def text(engine: Engine) -> str:
        return "".join(token.text for token in engine.stream(request))

    engine = open_engine(model_path, plan, name="tiny")
    assert isinstance(engine, Throttled)
    usual = text(engine)
    engine.limit_threads(1)
    assert text(engine) == usual
    assert engine._context._n_threads == 1
    engine.close()
    isolated = open_process("llamacpp", model_path, plan, name="tiny")
    assert isinstance(isolated, Throttled)
    isolated.limit_threads(1)
    assert isolated._call("limit_threads", [1], {}) is None, "the process knows the call"
    assert text(isolated) == usual
    isolated.close()
    isolated.limit_threads(1)  # nothing to tell any more, and no error


def ask(rule: Escalation, policy: Policy) -> Answer:
    """One answer on a machine of the user's own kind, told to save its battery."""
    file = config_dir() / "device_profiles" / "field.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        dedent(f"""
        name = "field"
        title = "A tablet in the field"
        [[match]]
        board = "no such board"
        [memory]
        model_share = {{ value = 0.3, provenance = "estimated" }}
        keep_free_mb = {{ value = 500, provenance = "estimated" }}
        [models.chat]
        model = "smollm2-135m-instruct"
        quantization = "q4_1"
        n_ctx = {{ value = 1024, provenance = "estimated" }}
        kv_type = "f16"
        [power.battery]
        escalation = "{rule}"
        """)
    )
    cloud, engine = FakeCloud("From the cloud."), FakeEngine("From the device.")
    with Edge(
        engine=engine, cloud=cloud, policy=policy, profile="field", goal="battery", ledger=False
    ) as edge:
        return edge.ask("Hello")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEAI_HOME", str(tmp_path / "home"))


def test_a_profile_may_prefer_the_cloud() -> None:
    """Where the app allows it: the answer says why it left. Without leave nothing does."""
    left = ask("prefer", ALLOWED)
    assert (left.source, left.reason) == ("cloud", Reason.POWER)
    assert "on battery or hot" in left.explanation
    stayed = ask("prefer", Policy())
    assert (stayed.source, stayed.reason, stayed.disclosed_bytes) == ("device", Reason.UNJUDGED, 0)


def test_a_profile_may_keep_what_is_only_doubted() -> None:
    """Doubt does not leave then; what the app itself prefers does."""
    doubted = replace(ALLOWED, min_score=1.0)
    assert ask("usual", doubted).source == "cloud"
    kept = ask("keep", doubted)
    assert (kept.source, kept.reason) == ("device", Reason.FRUGAL)
    assert "keeps queries here" in kept.explanation
    assert ask("keep", replace(ALLOWED, prefer="cloud")).source == "cloud"


def test_a_rule_there_is_none_of() -> None:
    """It is refused, with the field's name."""
    with pytest.raises(ConfigError, match="escalation"):
        ask("sometimes", ALLOWED)  # type: ignore[arg-type]  # the point
