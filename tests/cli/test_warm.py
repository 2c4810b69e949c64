"""`edgeai warm`."""

import json

import pytest

from edgeai.cli import main
from edgeai.models import prefixes


def run(*args: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(args)
    assert not ended.value.code


def test_list_and_clear(capsys: pytest.CaptureFixture[str]) -> None:
    """What is kept is listed without its text, and can be deleted."""
    prefixes.write({"weights": "abc"}, (1, 2, 3), b"data", model="tiny@llamacpp-f32")
    run("warm", "list", "--json")
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["model"], row["tokens"]) == ("tiny@llamacpp-f32", 3)
    run("warm", "list")
    assert "tiny@llamacpp-f32" in capsys.readouterr().out
    run("warm", "clear", "--json")
    assert json.loads(capsys.readouterr().out) == {"deleted": 1}
    assert list(prefixes.kept()) == []
