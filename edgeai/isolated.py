"""Whether an engine gets a process of its own."""

import math
from typing import TYPE_CHECKING, Literal, get_args

from edgeai.errors import ConfigError

if TYPE_CHECKING:
    from edgeai.models.store import InstalledModel

__all__ = ["IsolationName", "needs_process"]

IsolationName = Literal["auto", "thread", "process"]


def needs_process(
    model: "InstalledModel",
    isolation: IsolationName = "auto",
    memory_bytes: int | None = None,
    limit_s: float | None = None,
) -> bool:
    """Whether the engine gets a process of its own: where that is asked for, and with "auto" where nobody
    vouches for the files, or its memory or time is bounded. Raises ConfigError for what cannot be.
    """
    from edgeai.models.vouched import is_vouched

    if isolation not in get_args(IsolationName):
        known = ", ".join(get_args(IsolationName))
        raise ConfigError(f"isolation is {isolation!r}", remedy=f"Use one of {known}")
    if isolation == "thread" and memory_bytes is not None:
        raise ConfigError(
            "isolation_memory_bytes needs a process of the engine's own", remedy='Use isolation="process"'
        )
    if limit_s is not None and (isolation == "thread" or not 0 < limit_s < math.inf):
        raise ConfigError(
            f"isolation_limit_s is {limit_s!r}",
            remedy='Give seconds above zero, and isolation="process"',
        )
    if isolation == "auto":
        return memory_bytes is not None or limit_s is not None or not is_vouched(model)
    return isolation == "process"
