"""What an Edge keeps on the disk: its ledger, and the questions that wait for the network."""

from pathlib import Path
from typing import TYPE_CHECKING

from edgeai.cloud import Cloud
from edgeai.errors import ConfigError
from edgeai.policy import Policy

if TYPE_CHECKING:
    from edgeai.ledger import Ledger
    from edgeai.waiting import Waiting

__all__ = ["open_ledger", "open_waiting"]


def open_ledger(ledger: "bool | str | Path | Ledger") -> "Ledger | None":  # `ledger=True` reads well
    """The record in the data folder, or at a path, or an open one, or none. Raises LedgerError."""
    if ledger is False:
        return None
    from edgeai.ledger import Ledger

    if isinstance(ledger, Ledger):
        return ledger
    if not isinstance(ledger, bool | str | Path):
        raise ConfigError(f"ledger is {ledger!r}, expected True, False, a path or a Ledger")
    return Ledger.open(None if ledger is True else Path(ledger))


def open_waiting(
    cloud: Cloud | None, policy: Policy, ledger: "Ledger | None", *, key: str | None
) -> "Waiting | None":
    """The questions that wait for the network, if the policy queues any. Raises LedgerError, ConfigError."""
    if cloud is None or policy.when_offline != "queue":
        return None
    from edgeai.outbox import Outbox
    from edgeai.waiting import Waiting

    return Waiting(Outbox(key=key), cloud, policy, ledger)
