"""The store's dealings with the disk: room, hashes, whole folders at once, and errors that say what to do."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from edgeai.errors import DiskFull, EdgeError, StoreLocked
from edgeai.paths import cache_dir

__all__ = [
    "check_room",
    "hash_file",
    "install_folder",
    "locked",
    "parent_made",
    "remembered_sha256",
    "writing",
]

CHUNK = 1 << 20
SPARE_BYTES = 16 << 20
NO_ROOM = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


def check_room(folder: Path, needed: int) -> None:
    """Raise DiskFull when ``needed`` bytes and some spare do not fit where ``folder`` is or will be."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed + SPARE_BYTES:
        raise DiskFull(
            f"{folder} has room for {free / 1e6:,.0f} MB, {(needed + SPARE_BYTES) / 1e6:,.0f} MB are needed",
            remedy="Free some space, or set EDGEAI_HOME to a folder on a larger disk",
        )


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn what the operating system says about ``folder`` into DiskFull."""
    try:
        yield
    except OSError as error:
        if isinstance(error, EdgeError) or not _concerns(error, folder):
            raise
        if error.errno in NO_ROOM or error.errno is None:
            what, remedy = f"The disk became full while writing to {folder}", "Free some space"
        else:
            what, remedy = f"{folder} cannot be written to", "Give it write permission"
        remedy += ", or set EDGEAI_HOME to another folder"
        why = str(error) if error.errno is None else f"{error.strerror} ({error.filename})"
        raise DiskFull(what, why=why, remedy=remedy) from error


@contextmanager
def parent_made(path: Path) -> Iterator[None]:
    """The folder that ``path`` is to be in, made if need be; what was made goes away with an exception."""
    missing = [folder for folder in path.absolute().parents if not folder.exists()]
    with writing(path.parent):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield
        except BaseException:
            with suppress(OSError):  # somebody else has put something there
                for folder in missing:
                    folder.rmdir()
            raise


def _concerns(error: OSError, folder: Path) -> bool:
    """Whether it is about ``folder``, and not about a source or the caller's own progress function."""
    if error.errno is None and "written" in str(error):  # numpy's: it says how much, and not why
        return True
    if not isinstance(error.filename, str):
        return error.errno in NO_ROOM
    path = Path(error.filename)
    return path.is_relative_to(folder) or folder.is_relative_to(path)


@contextmanager
def locked(package_id: str, *, timeout_s: float, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of one package between processes; the operating system frees it when a process dies."""
    folder = cache_dir() / "locks"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{package_id}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_wait()
            _wait(lock, package_id, timeout_s)
    try:
        yield
    finally:
        lock.release()


def _wait(lock: FileLock, package_id: str, timeout_s: float) -> None:
    try:
        lock.acquire(timeout=timeout_s, poll_interval=0.1)
    except Timeout as error:
        raise StoreLocked(
            f"Another process has been working on {package_id} for {timeout_s:.0f} s",
            remedy=f"Wait for it, or end it; it holds {lock.lock_file}",
        ) from error


def hash_file(path: Path, report: Callable[[int], None] = lambda done: None) -> str:
    """The SHA-256 of a file; ``report`` hears the bytes read so far."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            report(file.tell())
    return digest.hexdigest()


def remembered_sha256(path: Path) -> str:
    """The SHA-256 of a file, read again only if its path, size or time of change is new."""
    path = path.resolve()
    note = _note(path)
    stat = path.stat()
    facts: dict[str, str | int] = {"path": str(path), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    with suppress(OSError, ValueError, AttributeError):
        known = json.loads(note.read_text("utf-8"))
        if {key: known.get(key) for key in facts} == facts:
            return str(known["sha256"])
    sha256 = hash_file(path)
    _remember(note, facts | {"sha256": sha256})
    return sha256


def _remember(note: Path, facts: Mapping[str, str | int]) -> None:
    """Keep a note in the cache, whole or not at all; a cache that cannot be written is only slower."""
    with suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        draft = note.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(dict(facts)), "utf-8")
        os.replace(draft, note)


def _note(path: Path) -> Path:
    return cache_dir() / "hashes" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.json"


def install_folder(finished: Path, target: Path) -> None:
    """Move a finished folder to its place in one step; what was there goes away."""
    target.parent.mkdir(parents=True, exist_ok=True)
    old = finished.with_name("replaced")
    if target.is_symlink():
        target.unlink()
    elif target.exists():
        os.replace(target, old)
    os.replace(finished, target)
    shutil.rmtree(old, ignore_errors=True)
