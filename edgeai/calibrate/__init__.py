"""From data to a contract: ask, judge, fit, certify, report; and replay the ledger under other rules.

Names are loaded on first use: a replay needs none of the libraries that a fit does.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeai.calibrate.calibration import Calibration, calibrate
    from edgeai.calibrate.cloud import Estimate
    from edgeai.calibrate.collect import Progress, Watch
    from edgeai.calibrate.data import Data, Row, read_data
    from edgeai.calibrate.fit import Fitting
    from edgeai.calibrate.html import page
    from edgeai.calibrate.report import Report
    from edgeai.calibrate.scenarios import Interval, Replayed, Scenario, replay, scenario_of
    from edgeai.calibrate.scorers import scorer
    from edgeai.calibrate.task import Method, Task, read_examples
    from edgeai.calibrate.work import Outcome
    from edgeai.monitor.promise import Promise
    from edgeai.scorers import Scorer

_HOMES = {
    "calibration": ("Calibration", "calibrate"),
    "cloud": ("Estimate",),
    "collect": ("Progress", "Watch"),
    "data": ("Data", "Row", "read_data"),
    "fit": ("Fitting",),
    "html": ("page",),
    "scenarios": ("Interval", "Replayed", "Scenario", "replay", "scenario_of"),
    "report": ("Report",),
    "scorers": ("Scorer", "scorer"),
    "task": ("Method", "Task", "read_examples"),
    "work": ("Outcome",),
}
_HOME = {name: f"edgeai.calibrate.{module}" for module, names in _HOMES.items() for name in names} | {
    "Promise": "edgeai.monitor.promise"
}

__all__ = [
    "Calibration",
    "Data",
    "Estimate",
    "Fitting",
    "Interval",
    "Method",
    "Outcome",
    "Progress",
    "Promise",
    "Replayed",
    "Report",
    "Row",
    "Scenario",
    "Scorer",
    "Task",
    "Watch",
    "calibrate",
    "page",
    "read_data",
    "read_examples",
    "replay",
    "scenario_of",
    "scorer",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'edgeai.calibrate' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
