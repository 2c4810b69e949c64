"""From data to a contract: ask, judge, fit, certify, report; and replay the ledger under other rules."""

from edgeai.calibrate.calibration import Calibration, calibrate
from edgeai.calibrate.cloud import Estimate
from edgeai.calibrate.collect import Progress, Watch
from edgeai.calibrate.data import Data, Row, read_data
from edgeai.calibrate.fit import Fitting
from edgeai.calibrate.page import page
from edgeai.calibrate.replay import Interval, Replayed, Scenario, replay, scenario_of
from edgeai.calibrate.report import Report
from edgeai.calibrate.scorers import scorer
from edgeai.calibrate.task import Method, Task, read_examples
from edgeai.calibrate.work import Outcome
from edgeai.monitor.promise import Promise
from edgeai.scorers import Scorer

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
