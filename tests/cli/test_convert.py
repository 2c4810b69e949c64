"""`edgeai convert` and `edgeai bundle`: tables, exit codes, and the way to another machine."""

import json
from pathlib import Path

import pytest

from edgeai.cli import main
from edgeai.cli.convert import read_size
from edgeai.errors import ConfigError
from edgeai.models import store
from tests.tiny_gguf import write_tiny_gguf


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tiny GGUF file."""
    return write_tiny_gguf(tmp_path / "tiny.gguf")


def run(*args: str | Path) -> int:
    """The exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(arg) for arg in args])
    return int(ended.value.code or 0)


def test_a_package_a_bundle_and_another_machine(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Convert, look at the table, bundle, import, and the model is there."""
    out, sent = tmp_path / "out", tmp_path / "sent.edgeai"
    assert run("convert", source, "--quant", "q8_0", "--out", out, "--tokens", "64") == 0
    said = capsys.readouterr()
    assert "tiny@llamacpp-q8_0" in said.out
    assert "kept" in said.out
    assert "licence: apache-2.0" in said.err
    assert "proving q8_0" in said.err

    assert run("bundle", out, "--out", sent, "--new-key", tmp_path / "key.pem", "--json") == 0
    public = json.loads(capsys.readouterr().out.splitlines()[0])["public_key"]
    assert run("models", "import", sent) == 3
    monkeypatch.setenv("EDGEAI_TRUSTED_KEYS", public)
    assert run("models", "import", sent) == 0
    assert store.verify("tiny@llamacpp-q8_0").folder is not None


def test_a_missed_gate_is_exit_code_1_with_the_table(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No package, the reason, and what was measured."""
    args = ("convert", source, "--to", "gguf", "--quant", "q4_0", "--out", tmp_path / "out", "--max-kl", "0")
    assert run(*args, "--tokens", "64") == 1
    said = capsys.readouterr()
    assert "missed: kl" in said.out
    assert "error: The converted model" in said.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "n_bytes"), [("120MB", 120_000_000), ("1.5 gib", 3 << 29), ("7", 7), ("2 kB", 2000)]
)
def test_sizes_are_read(text: str, n_bytes: int) -> None:
    """In the units of disks and of memory."""
    assert read_size(text) == n_bytes


def test_a_profile_bounds_the_memory(capsys: pytest.CaptureFixture[str]) -> None:
    """A share of the device's memory, and of this machine's without a name."""
    from edgeai.cli.convert import _memory

    assert 1e9 < (_memory("raspberry-pi-5-8gb") or 0) < 8e9
    assert (_memory("this") or 0) > 0
    assert capsys.readouterr().err == ""
    assert 4e9 < (_memory("snapdragon-x-elite") or 0) < 16e9


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "many", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    """With an example."""
    with pytest.raises(ConfigError, match="120MB"):
        read_size(text)


@pytest.mark.parametrize("args", [("--quant", "q3"), ("--for", "toaster"), ("--to", "hf", "--quant", "auto")])
def test_wrong_options_are_wrong_usage(args: tuple[str, ...], source: Path, tmp_path: Path) -> None:
    """Exit code 2, and nothing begins."""
    assert run("convert", source, "--out", tmp_path / "out", *args) == 2
