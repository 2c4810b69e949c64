"""Scorers by name: those of `edgeai.scorers`, a callable of the user's own, or the cloud as a judge.

module:name  a Python callable (answer, reference) -> number from 0 to 1
judge        the cloud says "right", "partly right" or "wrong": see `edgeai.calibrate.cloud`
"""

import functools
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeai.errors import ConfigError
from edgeai.options import nearest
from edgeai.scorers import SCORERS, Reference, Scorer

__all__ = ["JUDGE", "scorer"]

JUDGE = "judge"


def scorer(name: str) -> Scorer:
    """The scorer of this name, or the callable at ``module:name``, looked for in the current folder too.

    Raises ConfigError when there is none, and, when it is used, for a callable that gives no number from 0 to
    1. What the callable itself raises is its author's.
    """
    if name in SCORERS:
        return SCORERS[name]
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise ConfigError(
            f"There is no scorer {name!r}", remedy=nearest(name, [*SCORERS, JUDGE, "module:function"])
        )
    return _checked(name, _imported(name, module, attribute))


def _imported(name: str, module: str, attribute: str) -> Callable[..., Any]:
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"The scorer {name} cannot be imported",
            why=str(error),
            remedy="Run where the module is, or put its folder into PYTHONPATH",
        ) from error
    finally:
        sys.path.remove(str(Path.cwd()))
    if not callable(found):
        raise ConfigError(f"The scorer {name} is no function")
    function: Callable[..., Any] = found
    return function


def _checked(name: str, function: Callable[..., Any]) -> Scorer:
    @functools.wraps(function)
    def judge(answer: str, reference: Reference) -> float:
        value = function(answer, reference)
        if not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ConfigError(f"The scorer {name} gave {value!r}", remedy="Return a number from 0 to 1")
        return float(value)

    return judge
