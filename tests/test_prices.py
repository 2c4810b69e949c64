from pathlib import Path

import pytest

from edgeai.economics import Price
from edgeai.errors import ConfigError
from edgeai.prices import PriceTable

TABLE = """
date = 2026-11-01
[clouds."vllm:qwen3-*"]
prompt_usd = 0.05
completion_usd = 0.15
[clouds."vllm:*"]
prompt_usd = 1
completion_usd = 2
cached_usd = 0.1
"""


def load(tmp_path: Path, text: str) -> PriceTable:
    path = tmp_path / "prices.toml"
    path.write_text(text)
    return PriceTable.load(path)


def test_table(tmp_path: Path) -> None:
    """The first pattern that fits counts, and the date of the table goes with the price."""
    table = load(tmp_path, TABLE)
    assert table.find("vllm:qwen3-8b") == Price(prompt_usd=0.05, completion_usd=0.15, as_of="2026-11-01")
    other = table.find("vllm:llama")
    assert other is not None
    assert (other.prompt_usd, other.cached_usd) == (1, 0.1)
    assert table.find("openai:gpt-4o") is None


@pytest.mark.parametrize(
    "text",
    [
        "date = 2026-11-01\n[clouds.x]\nprompt_usd = 1\n",
        "date = 2026-11-01\n[clouds.x]\nprompt_usd = 1\ncompletion_usd = 1\nimage_usd = 1\n",
        'date = 2026-11-01\n[clouds.x]\nprompt_usd = "1"\ncompletion_usd = 1\n',
        "date = 2026-11-01\n[clouds.x]\nprompt_usd = true\ncompletion_usd = 1\n",
        "date = 2026-11-01\n[clouds.x]\nprompt_usd = -1\ncompletion_usd = 1\n",
        "date = 2026-11-01\nclouds = 3\n",
        "[clouds.x]\nprompt_usd = 1\ncompletion_usd = 1\n",
        "date = 2026-11-01\nclods = 3\n[clouds.x]\nprompt_usd = 1\ncompletion_usd = 1\n",
        "date = ",
    ],
)
def test_bad_tables(tmp_path: Path, text: str) -> None:
    """A table with an unknown name, no date, or a price that is none is refused."""
    with pytest.raises(ConfigError):
        load(tmp_path, text)


def test_no_table(tmp_path: Path) -> None:
    """A file that is not there is a ConfigError with its path."""
    with pytest.raises(ConfigError, match=r"no\.toml"):
        PriceTable.load(tmp_path / "no.toml")
