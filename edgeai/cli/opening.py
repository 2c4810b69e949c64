"""From settings to an open Edge; a model that is known but not here yet is pulled first."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

from edgeai import Edge, Policy
from edgeai.config import Settings
from edgeai.errors import ConfigError

if TYPE_CHECKING:
    from edgeai.cloud import Cloud
    from edgeai.load import EngineName


def open_edge(settings: Settings, adapters: Mapping[str, Path] = MappingProxyType({})) -> Edge:
    """Open what the settings say, with these LoRA adapters.

    Raises what `Edge` raises, and what `edgeai.prepare.prepare` does.
    """
    policy = Policy(
        privacy=settings.privacy,
        min_score=settings.min_score,
        contract=settings.contract,
        deadline_s=settings.deadline_s,
        when_full=settings.when_full,
    )
    cloud = open_cloud_of(settings)
    _pull_if_missing(settings.model)
    return Edge(
        settings.model,
        engine=cast("EngineName", settings.engine),  # Edge knows the names
        n_ctx=settings.n_ctx,
        profile=settings.profile,
        goal=settings.goal,
        device=settings.device,
        allow_fallback=settings.allow_fallback,
        cloud=cloud,
        policy=policy,
        ledger=settings.ledger,
        isolation=settings.isolation,
        isolation_memory_bytes=settings.isolation_memory_bytes,
        isolation_limit_s=settings.isolation_limit_s,
        draft=settings.draft,
        adapters=adapters,
    )


def may_leave(settings: Settings) -> bool:
    """Whether a text that is shown could still be replaced by the cloud's."""
    return settings.cloud is not None and settings.privacy != "local"


def open_cloud_of(settings: Settings) -> "Cloud | None":
    """The cloud of the settings, or several, separated by spaces or commas, from cheap to strong."""
    from edgeai.cloud import open_cloud, open_clouds
    from edgeai.prices import PriceTable

    prices = PriceTable.load(settings.prices) if settings.prices else None
    specs = settings.cloud.replace(",", " ").split() if settings.cloud else []
    if len(specs) > 1:
        if settings.cloud_base_url or settings.cloud_key_variable:
            raise ConfigError("cloud_base_url and cloud_key_variable are for one cloud only", remedy=SEVERAL)
        return open_clouds(specs, prices=prices)
    return next(
        (
            open_cloud(
                spec,
                base_url=settings.cloud_base_url,
                key_variable=settings.cloud_key_variable,
                prices=prices,
            )
            for spec in specs
        ),
        None,
    )


SEVERAL = 'Write the address into each: "vllm:qwen3@http://10.0.0.5:8000/v1"'


def _pull_if_missing(model: str) -> None:
    from edgeai.cli.progress import pull_with_bar
    from edgeai.prepare import is_known, is_prepared

    if is_known(model) and not is_prepared(model):
        pull_with_bar(model)
