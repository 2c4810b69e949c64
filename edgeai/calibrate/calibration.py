"""The whole of a calibration: ask, judge, fit, test, report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from edgeai.calibrate.cloud import Estimate, cloud_of
from edgeai.calibrate.collect import (
    Progress,
    Sides,
    Watch,
    Watched,
    bill,
    collect,
    judged_by,
    scorer_name,
    watch_row,
    watching,
)
from edgeai.calibrate.data import Data, read_data
from edgeai.calibrate.fit import Fitting, fit
from edgeai.calibrate.report import Report, report
from edgeai.calibrate.scorers import JUDGE, scorer
from edgeai.calibrate.strength import best_strength
from edgeai.calibrate.task import Task
from edgeai.calibrate.work import Outcome, open_work, row_key, work_key
from edgeai.cloud import Cloud
from edgeai.edge import Edge
from edgeai.errors import Cancelled, ConfigError, ContractInfeasible
from edgeai.monitor.contract import Contract, save
from edgeai.monitor.examples import Example
from edgeai.monitor.promise import Promise
from edgeai.scorers import usual_scorer

__all__ = ["Calibration", "calibrate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The result: a ``contract``, or the ``refusal`` that says why there is none; the report of either.

    ``outcomes`` are what became of each row, in the order of the data.
    """

    contract: Contract | None
    refusal: ContractInfeasible | None
    report: Report
    outcomes: tuple[Outcome, ...]

    def save(self, path: str | Path) -> None:
        """Write the contract. Raises the refusal when there is none."""
        if self.contract is None:
            assert self.refusal is not None
            raise self.refusal
        try:
            save(self.contract, Path(path))
        except OSError as error:
            raise ConfigError(f"{path} cannot be written", why=error.strerror) from error


def calibrate(
    edge: Edge,
    data: Data | str | Path,
    promise: Promise | str,
    *,
    task: Task = Task(),
    scorer: str | None = None,
    fitting: Fitting = Fitting(),
    ask_cloud: bool = False,
    restart: bool = False,
    confirm: Callable[[Estimate], bool] = lambda estimate: True,
    progress: Progress = lambda done, total: None,
    watch: Watch | None = None,
) -> Calibration:
    """Ask every prompt of the data on the device, and make a contract of the outcomes.

    promise: what to certify, as "error<=0.05@0.95" (see `edgeai.monitor.promise`). "quality" and
        "disagreement" ask the cloud too, any promise does with ``ask_cloud`` (which later lets audits tell
        drift), and the policy of ``edge`` has to allow it.
    scorer: how answers are judged (see `edgeai.calibrate.scorers`); None: what fits the method.
    confirm: gets the bill before the first query leaves; False ends with Cancelled.
    restart: forget the outcomes of an earlier run; else an interrupted one goes on where it stopped.
    watch: asks the device one prompt; None: the ordinary way, as queries are served.

    Blocks until all is done. Raises ConfigError for data and settings that do not fit, PrivacyViolation,
    ContractInfeasible when there is nothing to learn from, and what asking raises. What was done is kept.
    """
    data = data if isinstance(data, Data) else read_data(data)
    promise = promise if isinstance(promise, Promise) else Promise.parse(promise)
    task = task.with_data(data)
    sides = _sides(edge, data, promise, task, scorer, fitting.good, watch, ask_cloud=ask_cloud)
    first = watch_row(sides, data.rows[0])
    done, price = _done(sides, data, first, restart=restart, confirm=confirm, progress=progress)
    asked = None if sides.cloud is None else sides.cloud.model
    binding = replace(first.binding, scorer=judged_by(sides.scorer, sides.good), cloud=asked)
    strength, examples = _examples(done, data, task, sides, promise, fitting)
    found = fit(examples, promise, binding, fitting)
    contract = None
    if found.certificate is not None:
        contract = Contract(
            promise=promise,
            binding=binding,
            pipeline=replace(found.pipeline, strength=strength),
            certificate=found.certificate,
            notes={"date": datetime.now(UTC).date().isoformat(), "data": Path(data.source).name},
        )
    text = report(found, data, binding, done, usd_per_query=price)
    return Calibration(contract=contract, refusal=found.refusal, report=text, outcomes=done)


def _examples(
    done: Sequence[Outcome], data: Data, task: Task, sides: Sides, promise: Promise, fitting: Fitting
) -> tuple[float | None, list[Example]]:
    """What to fit on; under a judge, who saw only one label, the correction stays as it was observed."""
    if sides.scorer == JUDGE:
        labels = done[0].labels
        return None if labels is None else labels.strength, [outcome.example for outcome in done]
    return best_strength(
        done,
        data.rows,
        task.choices,
        scorer(sides.scorer),
        good=fitting.good,
        share=fitting.share,
        by_cloud=promise.kind == "disagreement",
    )


def _sides(
    edge: Edge,
    data: Data,
    promise: Promise,
    task: Task,
    judged_by: str | None,
    good: float,
    watch: Watch | None,
    *,
    ask_cloud: bool,
) -> Sides:
    """Who answers and judges; all that can be known to be wrong is refused before any work."""
    if promise.kind != "disagreement" and not data.labelled:
        raise ConfigError(
            f"{promise} needs references, and {data.source} has none",
            remedy='Give a "reference" in each row, or promise "disagreement", which compares with the cloud',
        )
    if not 0 < good <= 1:
        raise ConfigError(f"good is {good!r}, expected a number above 0, up to 1")
    name = judged_by or usual_scorer(task.method)
    if name != JUDGE:
        scorer(name)
    asked = ask_cloud or promise.kind in ("quality", "disagreement")
    cloud = cloud_of(edge) if asked or name == JUDGE else None
    return Sides(
        edge=edge,
        task=task,
        watch=watch or watching(edge, task),
        scorer=name,
        good=good,
        cloud=cloud if asked else None,
    )


def _done(
    sides: Sides,
    data: Data,
    first: Watched,
    *,
    restart: bool,
    confirm: Callable[[Estimate], bool],
    progress: Progress,
) -> tuple[tuple[Outcome, ...], float | None]:
    """All outcomes, and the likely price of one query in the cloud."""
    asked = None if sides.cloud is None else f"{sides.cloud.endpoint} {sides.cloud.model}"
    key = work_key(first.binding, scorer=scorer_name(sides.scorer), cloud=asked, good=sides.good)
    with open_work(key, restart=restart) as work:
        todo = [row for row in data.rows if row_key(row) not in work.done]
        if todo and (sides.cloud is not None or sides.scorer == JUDGE):
            _confirmed(bill(sides, cloud_of(sides.edge), todo), confirm)
        done = collect(sides, data.rows, work, first=first, progress=progress)
    return done, _price(sides, data)


def _confirmed(estimate: Estimate, confirm: Callable[[Estimate], bool]) -> None:
    if not confirm(estimate):
        raise Cancelled("The calibration was not confirmed, and nothing was sent")


def _price(sides: Sides, data: Data) -> float | None:
    """What one query would likely cost in the Edge's cloud, also when it was not asked; None: unknown."""
    cloud: Cloud | None = sides.edge._session.cloud
    if cloud is None:
        return None
    likely = bill(replace(sides, cloud=cloud, scorer="exact"), cloud, data.rows[:100])
    return None if likely.likely_usd is None else likely.likely_usd / likely.queries
