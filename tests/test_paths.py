"""Where files go."""

from pathlib import Path

import pytest

from edgeai import paths


def test_one_variable_moves_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EDGEAI_HOME has the cache, the data and the settings below it, and nothing is made by asking."""
    monkeypatch.setenv("EDGEAI_HOME", str(tmp_path / "home"))
    found = {paths.cache_dir(), paths.data_dir(), paths.config_dir()}
    assert found == {tmp_path / "home" / name for name in ("cache", "data", "config")}
    assert not (tmp_path / "home").exists()


def test_without_it_the_platform_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wiping the cache cannot erase the record: cache and data are different folders."""
    monkeypatch.delenv("EDGEAI_HOME")
    assert paths.cache_dir() != paths.data_dir()
    assert not paths.data_dir().is_relative_to(paths.cache_dir())
    assert "edgeai" in str(paths.config_dir())
