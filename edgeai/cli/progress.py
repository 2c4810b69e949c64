"""How a pull and a calibration look: a bar on a terminal, some lines elsewhere. All of it on stderr."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from edgeai.models import store
from edgeai.prepare import prepare

STAGES = {
    "wait": "waiting for another process",
    "download": "pulling",
    "unpack": "unpacking",
    "verify": "verifying",
    "convert": "converting",
}


def pull_with_bar(name: str, *, allow_large: bool = False) -> tuple[store.InstalledModel, ...]:
    """Pull a model of the catalog, convert it if need be, and show how far it is; raises as `prepare`."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        return prepare(name, progress=_lines(console), allow_large=allow_large)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        return prepare(name, progress=_bar(bar), allow_large=allow_large)


@contextmanager
def counting(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show (done, total) as a bar with the time that is left; elsewhere than on a terminal each tenth."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield _tenths(console, title)
        return
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task("", total=None)

    def show(done: int, total: int) -> None:
        bar.start()  # not before there is something to count: a question may come first
        bar.update(task, completed=done, total=total)

    try:
        yield show
    finally:
        bar.stop()


@contextmanager
def stepping() -> Iterator[Callable[[str, int, int], None]]:
    """Show (title, done, total) as one bar after the other; elsewhere than on a terminal a line each."""
    console = Console(stderr=True, highlight=False)
    shown = set[str]()
    if not console.is_terminal:
        yield lambda title, done, total: _once(console, shown, title)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(title: str, done: int, total: int) -> None:
            if title not in shown:
                shown.add(title)
                bar.reset(task, description=title, total=total or None)
            bar.update(task, completed=done, total=total or None)

        yield show


def _once(console: Console, shown: set[str], title: str) -> None:
    if title not in shown:
        shown.add(title)
        console.print(title, soft_wrap=True)


def _tenths(console: Console, title: str) -> Callable[[int, int], None]:
    shown = set[int]()

    def show(done: int, total: int) -> None:
        if (tenth := 10 * done // max(total, 1)) not in shown:
            shown.add(tenth)
            console.print(f"{title}: {done} of {total}", soft_wrap=True)

    return show


def _bar(bar: Progress) -> Callable[[store.Progress], None]:
    task = bar.add_task("", total=None)
    stage = ""

    def show(step: store.Progress) -> None:
        nonlocal stage
        if step.stage != stage:  # a new stage starts the bar and its speed anew
            stage = step.stage
            bar.reset(task, description=_title(step), total=step.total)
        bar.update(task, completed=step.done, total=step.total)

    return show


def _lines(console: Console) -> Callable[[store.Progress], None]:
    shown = set[tuple[str, int]]()

    def show(step: store.Progress) -> None:
        quarter = 4 * step.done // step.total if step.total and step.stage == "download" else 0
        if (step.stage, quarter) not in shown and quarter < 4:
            shown.add((step.stage, quarter))
            size = f", {step.total / 1e6:.0f} MB" if step.total else ""
            size += f", {25 * quarter} %" if quarter else ""
            console.print(f"{_title(step)}{size}", soft_wrap=True)

    return show


def _title(step: store.Progress) -> str:
    source = f" from {step.source}" if step.source else ""
    return f"{STAGES[step.stage]} {step.id}{source if step.stage == 'download' else ''}"
