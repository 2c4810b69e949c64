"""From settings to an open Edge; a model that is known but not here yet is pulled first."""

from typing import TYPE_CHECKING, cast

from edgeai import Edge, Policy
from edgeai.config import Settings

if TYPE_CHECKING:
    from edgeai.cloud import Cloud
    from edgeai.load import EngineName


def open_edge(settings: Settings) -> Edge:
    """Open what the settings say. Raises what `Edge` raises, and what `edgeai.prepare.prepare` does."""
    policy = Policy(
        privacy=settings.privacy,
        min_score=settings.min_score,
        contract=settings.contract,
        deadline_s=settings.deadline_s,
    )
    cloud = _cloud(settings)
    _pull_if_missing(settings.model)
    return Edge(
        settings.model,
        engine=cast("EngineName", settings.engine),  # Edge knows the names
        n_ctx=settings.n_ctx,
        cloud=cloud,
        policy=policy,
        ledger=settings.ledger,
    )


def may_leave(settings: Settings) -> bool:
    """Whether a text that is shown could still be replaced by the cloud's."""
    return settings.cloud is not None and settings.privacy == "allow"


def _cloud(settings: Settings) -> "str | Cloud | None":
    if settings.cloud is None:
        return None
    provider, _, model = settings.cloud.partition(":")
    own_server = settings.cloud_base_url or settings.cloud_key_variable
    if provider != "openai" or not own_server:
        return settings.cloud
    from edgeai import OpenAI

    key_variable = settings.cloud_key_variable
    if settings.cloud_base_url is None:
        return OpenAI(model, key_variable=key_variable)
    return OpenAI(model, base_url=settings.cloud_base_url, key_variable=key_variable)


def _pull_if_missing(model: str) -> None:
    from edgeai.cli.progress import pull_with_bar
    from edgeai.prepare import is_known, is_prepared

    if is_known(model) and not is_prepared(model):
        pull_with_bar(model)
