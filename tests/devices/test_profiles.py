from pathlib import Path

import pytest

from edgeai.devices.escalation import escalation
from edgeai.devices.gpus import BACKENDS
from edgeai.devices.plan import frugal, plan
from edgeai.devices.power import read_power
from edgeai.devices.probe import probe
from edgeai.devices.profiles import choose, load_profiles, ranked, read_profile
from edgeai.devices.providers import PROVIDERS
from edgeai.devices.schema import Figure, read
from edgeai.devices.tuning import Choice, Tuning
from edgeai.errors import ConfigError
from edgeai.paths import config_dir
from edgeai.target import device_for
from tests.devices.trees import MACHINES, battery, memory, plant, x86

NAMES = {*MACHINES, "apple-m-8gb", "apple-m-16gb"}
SOUND = """
name = "mine"
title = "My box"
[[match]]
cpu = "Mine"
[memory]
model_share = { value = 0.5, provenance = "estimated" }
keep_free_mb = { value = 100, provenance = "estimated" }
[models.chat]
model = "m"
quantization = "q4_1"
n_ctx = { value = 2048, provenance = "measured", source = "my box" }
"""


def test_all_reference_devices_have_a_profile() -> None:
    """Each file is sound, and the generic one comes last."""
    profiles = load_profiles()
    assert {profile.name for profile in profiles} == NAMES
    assert profiles[-1].name == "generic"


@pytest.mark.parametrize("name", MACHINES)
def test_each_machine_gets_its_profile(tmp_path: Path, name: str) -> None:
    """The most specific profile whose rules hold is the one that was written for it."""
    assert choose("auto", probe(plant(tmp_path, MACHINES[name]))).name == name


def test_this_machine_gets_one() -> None:
    """There is always a profile."""
    assert choose("auto", probe()).name in NAMES


def test_why_is_told(tmp_path: Path) -> None:
    """Every rule of every profile has a verdict, with what was wanted and found."""
    tree = x86("Intel(R) N100", n=4) | memory(8.2, 6)
    verdicts = {c.profile.name: c for c in ranked(probe(plant(tmp_path, tree)))}
    assert verdicts["intel-n100-kiosk"].matches
    [board, size] = verdicts["raspberry-pi-5-8gb"].verdicts
    assert (board.rule, board.found, board.passed) == ("board", "none", False)
    assert (size.wanted, size.found, size.passed) == ("7 to 9", "8.2", True)


def test_a_name_beats_the_probe() -> None:
    """A profile can be asked for by name; a mistyped one is answered with the nearest."""
    assert choose("laptop-8gb", probe()).name == "laptop-8gb"
    with pytest.raises(ConfigError, match="Did you mean 'laptop-8gb'"):
        choose("laptop-8g", probe())


def test_ones_own_profile_overrides(tmp_path: Path) -> None:
    """A file in the configuration folder adds a device, and one of a shipped name replaces that."""
    folder = config_dir() / "device_profiles"
    plant(folder, {"mine.toml": SOUND, "generic.toml": SOUND.replace('"mine"', '"generic"')})
    machine = probe(plant(tmp_path, x86("Mine AMD 5", n=2) | memory(8, 6)))
    assert choose("auto", machine).title == "My box"
    assert choose("generic", machine).file == str(folder / "generic.toml")


@pytest.mark.parametrize(
    ("broken", "becomes", "words"),
    [
        ('title = "My box"', "title = 5", "title is 5. It must be a text"),
        ('title = "My box"', "", "lacks the field 'title'"),
        ('cpu = "Mine"', 'cpu = "Mine"\nwheels = 4', r"match\[0\] has no field 'wheels'"),
        ('cpu = "Mine"', "memory_gb = [1]", "It must be a list of 2"),
        ('cpu = "Mine"', "", "matches every machine"),
        (
            "value = 100, provenance",
            "value = true, provenance",
            "memory, keep_free_mb, value is True. It must be a number",
        ),
        ("value = 0.5", "value = 1.5", "model_share is 1.5"),
        (', source = "my box"', "", "n_ctx is measured, but not where"),
        ('"measured"', '"guessed"', "n_ctx, provenance is 'guessed'"),
        ('{ value = 0.5, provenance = "estimated" }', "0.5", "model_share is 0.5. It must be a table"),
        ("[models.chat]", "[models.talk]", "models has no chat"),
        ('"mine"', "mine", "is not a device profile"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, broken: str, becomes: str, words: str) -> None:
    """The error names the file, the field, and what it must be."""
    assert broken in SOUND
    file = plant(tmp_path, {"mine.toml": SOUND.replace(broken, becomes)}) / "mine.toml"
    with pytest.raises(ConfigError, match=words) as raised:
        read_profile(file)
    assert "mine.toml" in str(raised.value)


def test_every_number_tells_where_it_comes_from() -> None:
    """A plain number is refused: what was published or measured names its source."""
    with pytest.raises(ConfigError, match="must be a table"):
        read(Figure, 3, "x")
    sources = [f.source for p in load_profiles() for f in p.expected.values() if f.provenance != "estimated"]
    assert sources
    assert all(sources)


def test_every_provider_is_considered_somewhere() -> None:
    """On a machine that nobody has described, each that is known has its place before the processor."""
    order = choose("generic", probe()).providers["speed"]
    assert all(row[-1] == "cpu" for row in order.values())
    known = {*PROVIDERS, *BACKENDS}
    assert {name for row in order.values() for name in row} == known
    for profile in load_profiles():
        assert {name for rows in profile.providers.values() for row in rows.values() for name in row} <= known


def test_on_battery_there_is_an_order_too() -> None:
    """Where a profile uses fewer threads on battery, it also says what computes then."""
    for profile in load_profiles():
        if profile.power.battery.threads is not None:
            order = profile.providers["battery"]
            assert order.keys() == {"prefill", "decode", "embed"}
            assert all("cpu" in row for row in order.values())


def test_every_device_of_a_conversion_has_memory() -> None:
    """Each profile says how much there is, and where that is known from, or from when on it matches."""
    for profile in load_profiles():
        total = profile.memory.total_mb
        assert total is not None
        share = profile.memory.model_share.value
        assert device_for(profile.name).memory == int(total.value * 1e6 * share)
        bands = [rules.memory_gb for rules in profile.match if rules.memory_gb is not None]
        assert all(low <= total.value / 1e3 <= high for low, high in bands)


def test_settings_to_begin_with(tmp_path: Path) -> None:
    """They go into the plan, behind what was measured here and what the caller says."""
    settings = """
    [settings]
    n_ubatch = { value = 64, provenance = "estimated" }
    parallel = { value = 2, provenance = "estimated" }
    spin_us = { value = 0, provenance = "estimated" }
    prepack = false
    flash_attn = false
    """
    file = tmp_path / "mine.toml"
    file.write_text(SOUND + settings)
    profile = read_profile(file)
    made = plan(None, 4096, profile=profile)
    assert (made.n_ubatch, made.parallel, made.spin_us, made.prepack, made.flash_attn) == (
        64,
        2,
        0,
        False,
        False,
    )
    tuned = Tuning(
        model="m", circumstances={}, choices=(Choice(name="n_ubatch", value=256, query_s={}),), complete=True
    )
    assert plan(None, 4096, profile=profile, tuning=tuned, parallel=5).n_ubatch == 256
    assert plan(None, 4096, profile=profile, parallel=5).parallel == 5
    file.write_text(SOUND + settings.replace("value = 64", "value = 0"))
    with pytest.raises(ConfigError, match="n_ubatch is 0"):
        read_profile(file)


def test_a_battery_that_is_nearly_empty(tmp_path: Path) -> None:
    """From the given charge down, and only while it discharges, another policy comes first."""
    rules = """
    [power]
    low_charge = { value = 0.2, provenance = "estimated" }
    [power.low]
    threads = { value = 1, provenance = "estimated" }
    escalation = "prefer"
    [power.battery]
    threads = { value = 2, provenance = "estimated" }
    escalation = "keep"
    """
    file = tmp_path / "mine.toml"
    file.write_text(SOUND + rules)
    profile = read_profile(file)
    told = {}
    for state in (("Discharging", 50), ("Discharging", 20), ("Charging", 10)):
        power = read_power(plant(tmp_path / f"{state}", battery(*state)))
        caps = [int(p.threads.value) for p in frugal(profile, power, "speed") if p.threads is not None]
        told[state] = (min(caps, default=0), escalation(profile, power))
    assert list(told.values()) == [(2, "keep"), (1, "prefer"), (0, "usual")]
