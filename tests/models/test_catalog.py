"""The catalog: what it knows, and what it says about what it does not know."""

from pathlib import Path

import pytest

from edgeai.errors import ConfigError, ModelNotFound
from edgeai.models import catalog
from edgeai.paths import config_dir
from tests.models.shop import list_tiny

GOOD = {
    "id": '"mine@llamacpp-q8_0"',
    "file": '"mine.gguf"',
    "sha256": f'"{"0" * 64}"',
    "size": "5",
    "parameters": "5",
    "context": "5",
    "licence": '"MIT"',
}


def write_catalog(**changes: str) -> None:
    """The user's catalog, with one package."""
    config_dir().mkdir(parents=True, exist_ok=True)
    rows = [f"{key} = {value}" for key, value in (GOOD | changes).items() if value]
    (config_dir() / "catalog.toml").write_text("\n".join(["[[package]]", *rows]), "utf-8")


def test_a_name_means_the_first_package_of_its_family() -> None:
    """The default name and its id lead to the same entry."""
    entry = catalog.resolve(catalog.default_name())
    assert entry.id == "smollm2-135m-instruct@llamacpp-q4_1"
    assert catalog.resolve(entry.id) is entry
    assert catalog.is_trusted(entry.sha256)


@pytest.mark.parametrize("name", ["smollm2", "SmolLM2-135M-Instruct", "smollm2-135m-instruct@llamacpp-q4_0"])
def test_the_nearest_name_is_offered(name: str) -> None:
    """Nearly right names are answered with the right one."""
    with pytest.raises(ModelNotFound, match="Did you mean 'smollm2-135m-instruct"):
        catalog.resolve(name)


def test_a_name_near_nothing_gets_the_list() -> None:
    """Where nothing is near, the error says what there is."""
    with pytest.raises(ModelNotFound, match="Known are smollm2-135m-instruct"):
        catalog.resolve("zzz")


def test_the_users_catalog_adds_and_replaces(tiny: Path) -> None:
    """Own entries come first, and one with our id takes its place."""
    list_tiny(tiny)
    assert catalog.resolve("tiny").file == "tiny.gguf"
    write_catalog(id='"smollm2-135m-instruct@llamacpp-q4_1"')
    assert catalog.resolve("smollm2-135m-instruct").file == "mine.gguf"


@pytest.mark.parametrize(
    "change",
    [
        {"id": '"Mine"'},
        {"id": '"../up@llamacpp-q8_0"'},
        {"file": '"../up.gguf"'},
        {"file": '"edgeai.json"'},
        {"sha256": '"short"'},
        {"size": "0"},
        {"size": '"5"'},
        {"size": "true"},
        {"licence": ""},
        {"colour": '"red"'},
        {"source": '[{ kind = "ftp", url = "x" }]'},
        {"source": '[{ kind = "url" }]'},
        {"source": '[{ kind = "url", url = "x", extra = 1 }]'},
        {"context": "["},
    ],
)
def test_an_unsound_entry_fails_and_is_named(change: dict[str, str]) -> None:
    """Unknown keys, wrong types and paths that lead elsewhere are ConfigErrors with the file's name."""
    write_catalog()
    assert catalog.resolve("mine").size == 5
    write_catalog(**change)
    with pytest.raises(ConfigError, match=r"catalog\.toml"):
        catalog.entries()
