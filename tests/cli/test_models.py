import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeai.cli.exits import Exit
from edgeai.cli.opening import open_edge
from edgeai.config import Settings
from tests.cli.conftest import Run, Terminal

ID = "smollm2-135m-instruct@llamacpp-q4_1"


@pytest.fixture
def own_catalog(home: Path, model_path: Path) -> str:
    """A catalog of the user's own, whose one model is a file on this machine."""
    folder = home / "config"
    folder.mkdir(parents=True)
    (folder / "catalog.toml").write_text(f"""
        [[package]]
        id = "mine@llamacpp-q4_1"
        file = "mine.gguf"
        sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
        size = {model_path.stat().st_size}
        parameters = 134515008
        context = 8192
        licence = "Apache-2.0"
        [[package.source]]
        kind = "file"
        path = {str(model_path)!r}
    """)
    return "mine@llamacpp-q4_1"


def test_the_list_has_catalog_and_store(run: Run, model: Path, own_catalog: str) -> None:
    """Plain lines in a pipe, one a model, with state and size; JSON has the exact numbers."""
    lines = [line.split("\t") for line in run("models", "list").out.splitlines()]
    assert lines[0][:3] == ["MODEL", "STATE", "SIZE"]
    assert [ID, "installed", "98 MB", "135 M"] in [line[:4] for line in lines]
    assert [own_catalog, "not installed", "98 MB", "135 M"] in [line[:4] for line in lines]
    rows = {row["id"]: row for row in json.loads(run("models", "list", "--json").out)}
    assert rows[ID]["size_bytes"] == 98362432
    assert rows[own_catalog]["path"] is None


def test_a_narrow_terminal_loses_nothing(model: Path, terminal: Callable[..., Terminal]) -> None:
    """A table that is wider than the terminal is not cut: the terminal wraps its lines."""
    terminal("models", "list").wait_for(f"{ID} +installed +98 MB +135 M +8192 +Apache-2.0")


def test_pull_verify_remove(run: Run, own_catalog: str) -> None:
    """A model is fetched and converted with progress on stderr, verified, and removed."""
    pulled = run("models", "pull", "mine")
    assert (pulled.code, pulled.out) == (0, f"installed {own_catalog}\ninstalled mine@onnx-int8\n")
    assert "verifying mine" in pulled.err
    assert "converting mine" in pulled.err
    assert run("models", "verify", "mine").out == f"verified {own_catalog}\nverified mine@onnx-int8\n"
    removed = run("models", "remove", own_catalog, "--json")
    assert json.loads(removed.out) == {"id": own_catalog, "state": "removed"}
    assert run("models", "verify", own_catalog).code == Exit.MODEL
    assert run("models", "remove", "mine").out == "removed mine@onnx-int8\n"
    assert run("models", "verify", "mine").code == Exit.MODEL


def test_import_under_a_name(run: Run, model: Path) -> None:
    """A file of one's own gets the name it is given, and damage to it is found."""
    imported = run("models", "import", str(model), "--name", "other")
    assert imported.out == "installed other@llamacpp-q4_1\n"
    (row,) = (row for row in json.loads(run("models", "list", "--json").out) if row["id"].startswith("other"))
    with Path(row["path"]).open("r+b") as file:
        file.seek(50_000_000)
        file.write(b"damage")
    damaged = run("models", "verify", "other")
    assert damaged.code == Exit.MODEL
    assert "sha256" in damaged.err


def test_an_unknown_name(run: Run) -> None:
    """A name that nobody knows is an error with the nearest one."""
    pulled = run("models", "pull", "smollm2-135m-instrct")
    assert pulled.code == Exit.MODEL
    assert "Did you mean" in pulled.err


def test_asking_pulls_what_is_missing(own_catalog: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A model of the catalog that is not here is pulled, and said so; the second time it is not."""
    settings = Settings(model=own_catalog)
    with open_edge(settings) as edge:
        assert edge.info.model == own_catalog
    assert "verifying mine" in capsys.readouterr().err
    open_edge(settings).close()
    assert capsys.readouterr().err == ""
