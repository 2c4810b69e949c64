"""A whole model from the hub: what a converter reads, the commit it was, and no pickles."""

import json
from pathlib import Path

import pytest

from edgeai.errors import DownloadFailed, MissingExtra, ModelUnsupported
from edgeai.models.hubs import fetch_repository
from tests.models.shop import open_shop

COMMIT = "c0ffee" * 6 + "c0de"


def offer(folder: Path, *names: str) -> Path:
    """A repository with these files; a branch is asked for its commit, a commit for its tree."""
    folder.mkdir()
    for name in names:
        (folder / name).write_text(f"content of {name}", "utf-8")
    (folder / "main").write_text(json.dumps({"id": "someone/tiny", "sha": COMMIT}), "utf-8")
    tree = [
        {"type": "file", "path": name, "size": (folder / name).stat().st_size, "oid": "0" * 40}
        for name in names
    ]
    (folder / COMMIT).write_text(json.dumps(tree), "utf-8")
    return folder


def test_the_hub_gives_what_a_converter_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub itself, pointed at another server; code and pickles stay where they are."""
    names = ("config.json", "model.safetensors", "LICENSE", "pytorch_model.bin", "modeling_tiny.py")
    with open_shop(offer(tmp_path / "hub", *names)) as shop:
        monkeypatch.setenv("HF_ENDPOINT", shop.url)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        folder, revision = fetch_repository("someone/tiny")
    assert revision == COMMIT
    assert {path.name for path in folder.iterdir() if path.is_file()} == set(names[:3])


def test_a_repository_without_safetensors_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that is not there is a failed download."""
    with open_shop(offer(tmp_path / "hub", "config.json", "pytorch_model.bin")) as shop:
        monkeypatch.setenv("HF_ENDPOINT", shop.url)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        with pytest.raises(ModelUnsupported, match="safetensors"):
            fetch_repository("someone/tiny")
        with pytest.raises(DownloadFailed, match="nobody/nothing"):
            fetch_repository("nobody/nothing@elsewhere")


def test_without_the_extra_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing extra is a MissingExtra with the command that helps."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"edgeai\[hub\]"):
        fetch_repository("someone/tiny")
