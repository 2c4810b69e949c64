"""Which clouds the settings mean."""

from pathlib import Path

import pytest

from edgeai.cli.opening import open_cloud_of
from edgeai.cloud.tiers import tiers_of
from edgeai.config import Settings
from edgeai.errors import ConfigError


def test_none() -> None:
    """No setting, no cloud."""
    assert open_cloud_of(Settings()) is None


def test_one_with_its_address() -> None:
    """Address and key variable go with the one cloud, whichever provider it is."""
    cloud = open_cloud_of(
        Settings(cloud="vllm:q", cloud_base_url="http://10.0.0.5/v1", cloud_key_variable="MY_KEY")
    )
    assert cloud is not None
    assert (cloud.model, cloud.endpoint) == ("q", "http://10.0.0.5/v1/chat/completions")


@pytest.mark.parametrize("spelled", ["ollama:a openai:b", "ollama:a, openai:b"])
def test_several(spelled: str) -> None:
    """Several clouds keep their order; one address for all of them is refused."""
    assert [cloud.model for cloud in tiers_of(open_cloud_of(Settings(cloud=spelled)))] == ["a", "b"]
    with pytest.raises(ConfigError, match="one cloud only"):
        open_cloud_of(Settings(cloud=spelled, cloud_base_url="http://10.0.0.5/v1"))


def test_price_table(tmp_path: Path) -> None:
    """The price table of the settings is the clouds' price."""
    path = tmp_path / "prices.toml"
    path.write_text('date = 2026-11-01\n[clouds."ollama:*"]\nprompt_usd = 0\ncompletion_usd = 0.5\n')
    [cloud] = tiers_of(open_cloud_of(Settings(cloud="ollama:a", prices=str(path))))
    assert cloud.price is not None
    assert (cloud.price.completion_usd, cloud.price.as_of) == (0.5, "2026-11-01")
