"""The tiny model's shop, and a pip that knows no other index."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeai.paths import cache_dir
from tests.models.shop import Shop, open_shop, tiny_model


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The tiny model's file."""
    return tiny_model(tmp_path / "shop")


@pytest.fixture
def shop(tiny: Path) -> Iterator[Shop]:
    """A server of the folder in which the tiny model lies."""
    with open_shop(tiny.parent) as running:
        yield running


@pytest.fixture
def pip_index(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """The shop, as the only index that pip knows."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"{shop.url}/simple")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    return shop


@pytest.fixture(autouse=True)
def _bare_store(_home: Path) -> None:
    """These tests want an empty store."""
    for link in (cache_dir() / "models").glob("*"):
        link.unlink()
    if (cache_dir() / "models").exists():
        (cache_dir() / "models").rmdir()
        cache_dir().rmdir()


def traces() -> list[str]:
    """What is in the cache folder, other than locks and remembered hashes."""
    found = (path.relative_to(cache_dir()) for path in cache_dir().rglob("*"))
    return sorted(str(path) for path in found if path.parts[0] not in ("locks", "hashes"))
