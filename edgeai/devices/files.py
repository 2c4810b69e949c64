"""Small files of /proc and /sys, which may be missing, unreadable or empty."""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def text(path: Path) -> str:
    """The file's text without white space and NULs around it, empty where there is no such file to read."""
    try:
        return path.read_bytes().decode("utf-8", "replace").strip().strip("\0")
    except OSError:
        return ""


def number(path: Path) -> int | None:
    """The whole number in the file; None where there is none."""
    try:
        return int(text(path), 0)
    except ValueError:
        return None


def entries(folder: Path, pattern: str = "*") -> list[Path]:
    """The folder's entries that match, by name; none where there is no such folder."""
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def cpu_list(written: str) -> frozenset[int]:
    """The numbers in the kernel's notation for sets of processors: ``0-3,8``."""
    return frozenset(_numbers(written))


def _numbers(written: str) -> Iterator[int]:
    for part in written.replace(" ", "").split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            yield from range(int(first), int(last if last.isdigit() else first) + 1)
