import re
from dataclasses import fields
from pathlib import Path

import pytest

from edgeai.cli import VERBS
from edgeai.cli.exits import MEANINGS
from edgeai.config import Settings
from tests.cli.conftest import Run

DOCS = (Path(__file__).parents[2] / "docs" / "cli.md").read_text("utf-8")


def test_the_exit_codes() -> None:
    """The table of exit codes is the one in the code."""
    table = DOCS.split("## Exit codes")[1]
    assert re.findall(r"\| (\d+) \| (.+) \|", table) == [(str(c.value), text) for c, text in MEANINGS.items()]


def test_the_settings() -> None:
    """The table of settings has every setting, its variable and, where there is one, its default."""
    table = DOCS.split("## Settings")[1].split("## Exit codes")[0]
    rows = {
        name: (variable, default)
        for name, variable, default in re.findall(r"\| `(\w+)` \| `(\w+)` \| (.+) \|", table)
    }
    assert set(rows) == {field.name for field in fields(Settings)}
    for field in fields(Settings):
        variable, default = rows[field.name]
        assert variable == f"EDGEAI_{field.name.upper()}"
        if isinstance(field.default, str):
            assert default == f'`"{field.default}"`'


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_section(verb: str) -> None:
    """No verb is missing from the page."""
    assert f"\n## {verb}\n" in DOCS


def test_every_option_of_ask_is_described(run: Run) -> None:
    """No option of the main verb is missing from the page."""
    options = set(re.findall(r"--[a-z][a-z-]+", run("ask", "--help").out)) - {"--help", "--ledger"}
    assert {option for option in options if option not in DOCS} == set()


def test_no_option_on_the_page_is_made_up(run: Run) -> None:
    """Every option on the page exists."""
    helps = [
        run(*verb, "--help").out
        for verb in [(), *((v,) for v in VERBS), ("models", "pull"), ("models", "import")]
    ]
    assert (
        set(re.findall(r"--[a-z][a-z-]+", DOCS)) - set(re.findall(r"--[a-z][a-z-]+", "".join(helps))) == set()
    )
