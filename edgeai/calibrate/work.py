"""What a calibration has found out so far, in a file: an interrupted one goes on where it stopped.

One file for each set of settings, one line a query, appended as it is done. A line holds hashes, features and
outcomes, but no text of prompt, answer or reference. A last line that was cut off is ignored.
"""

import base64
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from edgeai.calibrate.data import Row
from edgeai.errors import ConfigError, StoreLocked
from edgeai.monitor.codec import decode, dumps
from edgeai.monitor.contract import Binding
from edgeai.monitor.examples import Example, Observation
from edgeai.monitor.probe import pack
from edgeai.paths import data_dir
from edgeai.types import LabelScores

__all__ = ["Outcome", "Work", "folder", "open_work", "row_key", "work_key"]

SUFFIX = ".work.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What is known of one query. Costs in US dollars, times in seconds, None where unknown or not asked.

    Of a classification also the ``labels``' measurements, and the ``cloud_label``.
    """

    example: Example
    device_s: float | None = None
    device_tokens: int | None = None
    cloud_s: float | None = None
    cloud_usd: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    labels: LabelScores | None = None
    cloud_label: str | None = None


@dataclass(slots=True)
class Work:
    """The outcomes in one file, by `row_key`."""

    path: Path
    done: dict[str, Outcome]

    def add(self, key: str, outcome: Outcome) -> None:
        """Write one outcome; it outlives this process. Raises ConfigError when it cannot be."""
        line = dumps({"row": key, **_encode(outcome)}) + "\n"
        try:
            with self.path.open("ab") as file:
                file.write(line.encode())
        except OSError as error:
            raise _unusable(self.path, error) from error
        self.done[key] = _decode(json.loads(line))  # what a later run will read


def folder() -> Path:
    """Where calibrations keep their notes."""
    return data_dir() / "calibrations"


def row_key(row: Row) -> str:
    """The hash of a row's prompt and reference."""
    return hashlib.sha256(dumps([row.prompt, row.reference]).encode()).hexdigest()


def work_key(binding: Binding, *, scorer: str, cloud: str | None, good: float) -> str:
    """The hash of the settings on which outcomes depend: what is asked, who judges, who else is asked."""
    return hashlib.sha256(dumps([asdict(binding), scorer, cloud, good]).encode()).hexdigest()


@contextmanager
def open_work(key: str, *, restart: bool = False) -> Iterator[Work]:
    """The outcomes under these settings, or with ``restart`` none.

    Raises StoreLocked while another run has them, ConfigError when the file cannot be read or written.
    """
    path = folder() / f"{key}{SUFFIX}"
    lock = FileLock(path.with_suffix(".lock"), timeout=0)
    work = _locked(lock, path, restart=restart)
    try:  # what is raised in the block is none of the file's business
        yield work
    finally:
        lock.release()


def _locked(lock: FileLock, path: Path, *, restart: bool) -> Work:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        if restart:
            path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        return Work(path=path, done=dict(_read(path)))
    except Timeout as error:
        raise StoreLocked(
            "The same calibration is running in another process", remedy="Wait for it"
        ) from error
    except OSError as error:
        lock.release()
        raise _unusable(path, error) from error
    except ConfigError:
        lock.release()
        raise


def _unusable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"{path} cannot be used", why=error.strerror or str(error), remedy="Free the disk, or set EDGEAI_HOME"
    )


def _read(path: Path) -> Iterator[tuple[str, Outcome]]:
    """The outcomes of whole lines; a torn last line is cut off, so that the next one begins on its own."""
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            table = json.loads(line)
            yield table["row"], _decode(table)
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{path}, line {number} is damaged", why=str(error), remedy="Begin anew with --restart"
            ) from error


def _encode(outcome: Outcome) -> dict[str, Any]:
    """JSON's own types; a number that is none (infinite) becomes unknown."""
    example = outcome.example
    seen = example.seen
    numbers = {
        field.name: getattr(outcome, field.name)
        for field in fields(Outcome)
        if field.name not in ("example", "labels")
    }
    return numbers | {
        "labels": None if outcome.labels is None else asdict(outcome.labels),
        "key": example.key,
        "right": example.right,
        "cloud": example.cloud,
        "agrees": example.agrees,
        "features": _finite(seen.features),
        "categories": dict(seen.categories),
        "prefixes": {str(at): _finite(prefix) for at, prefix in seen.prefixes.items()},
        "words": {str(at): count for at, count in seen.words.items()},
        "hidden": None if seen.hidden is None else pack(seen.hidden),
    }


def _finite(features: Mapping[str, float | None]) -> dict[str, float | None]:
    return {
        name: None if value is None or not np.isfinite(value) else float(value)
        for name, value in features.items()
    }


def _decode(table: Mapping[str, Any]) -> Outcome:
    hidden = table["hidden"]
    seen = Observation(
        features=table["features"],
        categories=table["categories"],
        prefixes={int(at): prefix for at, prefix in table["prefixes"].items()},
        words={int(at): count for at, count in table["words"].items()},
        hidden=None if hidden is None else np.frombuffer(base64.b64decode(hidden), "<f4").astype(np.float32),
    )
    example = Example(
        key=table["key"], seen=seen, right=table["right"], cloud=table["cloud"], agrees=table["agrees"]
    )
    return Outcome(
        example=example,
        labels=None if table["labels"] is None else decode(LabelScores, table["labels"]),
        **{
            field.name: table[field.name]
            for field in fields(Outcome)
            if field.name not in ("example", "labels")
        },
    )
