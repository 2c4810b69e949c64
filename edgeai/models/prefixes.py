"""Warm prefixes on the disk: what a model has computed of a prompt's head, kept for the next start.

One file each, in the cache folder, for this user alone: it tells as much as the prompt itself. A file is
`MAGIC`, the size of a JSON header, the header, the tokens, the data, and the SHA-256 of all that. Whoever
reads one gets it whole and unchanged, or not at all.
"""

import hashlib
import json
import os
import struct
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeai.errors import DiskFull
from edgeai.models.disk import check_room, writing
from edgeai.paths import cache_dir

__all__ = [
    "MOST_BYTES",
    "Kept",
    "clear",
    "folder",
    "kept",
    "look",
    "name_of",
    "names",
    "read",
    "read_tokens",
    "write",
]

MOST_BYTES: Final = 1 << 30
"""What all files together may take, if nobody says otherwise."""

MAGIC: Final = b"edgeai warm 1\n\0\0"
_SIZE: Final = struct.Struct("<I")
_MAX_HEADER: Final = 1 << 14
_TOKEN_BYTES: Final = 4
_DIGEST_BYTES: Final = 32
_SUFFIX: Final = ".warm"
_ABANDONED_S: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One file, as its header tells. ``key`` says what computed it: only that may use it.

    ``used_s`` is when it was last wanted, in seconds since 1970.
    """

    path: Path
    model: str
    key: Mapping[str, str]
    n_tokens: int
    n_bytes: int
    used_s: float
    n_before: int
    """Bytes of the file before its tokens."""


def folder() -> Path:
    """Where they are. It may not exist yet."""
    return cache_dir() / "warm"


def name_of(key: Mapping[str, str], tokens: Sequence[int] | None = None) -> str:
    """The name of the file of ``tokens``; without them, how those of all files of ``key`` begin."""
    text = json.dumps(dict(key), sort_keys=True).encode()
    start = hashlib.sha256(text).hexdigest()[:16] + "-"
    if tokens is None:
        return start
    return start + hashlib.sha256(_packed(tokens)).hexdigest()[:32] + _SUFFIX


def kept(key: Mapping[str, str] | None = None) -> Iterator[Kept]:
    """The files whose headers can be read: those of ``key``, or all. Nothing is verified yet."""
    for name in names(key):
        if (found := look(folder() / name)) is not None and (key is None or found.key == key):
            yield found


def names(key: Mapping[str, str] | None = None) -> list[str]:
    """The names of the files of ``key``, or of all. A name stands for the key and for the tokens."""
    start = "" if key is None else name_of(key)
    try:
        return sorted(
            name for name in os.listdir(folder()) if name.endswith(_SUFFIX) and name.startswith(start)
        )
    except OSError:
        return []


def read_tokens(found: Kept) -> tuple[int, ...]:
    """The tokens of a file; none when they are not those that its name stands for."""
    try:
        with found.path.open("rb") as file:
            file.seek(found.n_before)
            tokens = _unpacked(file.read(_TOKEN_BYTES * found.n_tokens))
    except OSError:
        return ()
    return tokens if found.path.name == name_of(found.key, tokens) else ()


def read(found: Kept) -> bytearray | None:
    """The data, verified, and noted as used; None for a damaged file, which is deleted."""
    content = bytearray(found.n_bytes)
    whole = memoryview(content)
    try:
        with found.path.open("rb") as file:
            size = file.readinto(content)
            os.utime(found.path)
    except OSError:
        return None
    end = found.n_bytes - _DIGEST_BYTES
    good = size == found.n_bytes and hashlib.sha256(whole[:end]).digest() == whole[end:]
    if not good or _parsed(found.path, bytes(whole[: found.n_before]), size) is None:
        with suppress(OSError):
            found.path.unlink()
        return None
    start = found.n_before + _TOKEN_BYTES * found.n_tokens
    return content[start:end]


def write(
    key: Mapping[str, str],
    tokens: Sequence[int],
    data: bytes | bytearray,
    *,
    model: str,
    most_bytes: int = MOST_BYTES,
) -> int:
    """Keep it, in one step; those unused for longest go, until all take at most ``most_bytes``.

    Returns its bytes. Raises DiskFull when there is no room for it.
    """
    sizes = {"tokens": len(tokens), "data": len(data)}
    header = json.dumps({"key": dict(key), "model": model, **sizes}).encode()
    head = MAGIC + _SIZE.pack(len(header)) + header + _packed(tokens)
    size = len(head) + len(data) + _DIGEST_BYTES
    if size > most_bytes:
        raise DiskFull(
            f"{len(tokens)} tokens take {size:,} bytes, and all that is kept may take {most_bytes:,}",
            remedy="Allow more with most_bytes, or shorten it",
        )
    _make_room(key, tokens, most_bytes - size)
    path = folder() / name_of(key, tokens)
    with writing(folder()):
        folder().mkdir(parents=True, exist_ok=True, mode=0o700)
        check_room(folder(), size)
        draft = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.draft")
        try:
            _write(draft, head, data)
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    return size


def clear() -> int:
    """Delete all files, unfinished ones too; how many there were."""
    paths = list(folder().iterdir()) if folder().is_dir() else []
    with writing(folder()):
        for path in paths:
            path.unlink(missing_ok=True)
    return sum(path.suffix == _SUFFIX for path in paths)


def _write(path: Path, head: bytes, data: bytes | bytearray) -> None:
    digest = hashlib.sha256(head)
    digest.update(data)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as file:
        for part in (head, data, digest.digest()):
            file.write(part)
        file.flush()
        os.fsync(file.fileno())


def _make_room(key: Mapping[str, str], tokens: Sequence[int], room: int) -> None:
    """Delete what can never be used again, and what has not been used for longest."""
    own, stale = name_of(key, tokens), name_of({}, tokens).partition("-")[2]
    total = 0
    _sweep()
    for found in sorted(kept(), key=lambda found: found.used_s, reverse=True):
        same = found.path.name.endswith(stale) and _is_same(found.key, key)
        total += 0 if same else found.n_bytes
        if found.path.name != own and (same or total > room):
            with suppress(OSError):
                found.path.unlink()


def _sweep() -> None:
    """Delete what a process that died has left unfinished."""
    paths = folder().glob("*.draft") if folder().is_dir() else ()
    for path in paths:
        with suppress(OSError):
            if path.stat().st_mtime < time.time() - _ABANDONED_S:
                path.unlink()


def _is_same(old: Mapping[str, str], new: Mapping[str, str]) -> bool:
    """Whether it is of the same weights and adapter, so that only versions or settings have changed."""
    return all(old.get(name) == new.get(name) for name in ("weights", "adapter"))


def look(path: Path) -> Kept | None:
    """What the header says; None for a file that cannot be read or is damaged, which is deleted."""
    try:
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            start = file.read(len(MAGIC) + _SIZE.size + _MAX_HEADER)
    except OSError:
        return None
    parsed = _parsed(path, start, stat.st_size)
    if parsed is None:
        with suppress(OSError):
            path.unlink()
        return None
    model, key, n_tokens, n_before = parsed
    return Kept(
        path=path,
        model=model,
        key=key,
        n_tokens=n_tokens,
        n_bytes=stat.st_size,
        used_s=stat.st_mtime,
        n_before=n_before,
    )


def _parsed(path: Path, start: bytes, size: int) -> tuple[str, dict[str, str], int, int] | None:
    """Model, key, number of tokens, and where they begin; None unless all fits the file's name and size."""
    before = len(MAGIC) + _SIZE.size
    if not start.startswith(MAGIC) or len(start) < before:
        return None
    (n_header,) = _SIZE.unpack_from(start, len(MAGIC))
    try:
        header = json.loads(start[before : before + n_header])
        key = {str(name): str(value) for name, value in header["key"].items()}
        model, n_tokens, n_data = str(header["model"]), int(header["tokens"]), int(header["data"])
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
    sizes = before + n_header + _TOKEN_BYTES * n_tokens + n_data + _DIGEST_BYTES
    sound = n_header <= _MAX_HEADER and n_tokens > 0 and n_data > 0 and sizes == size
    if not sound or not path.name.startswith(name_of(key)):
        return None
    return model, key, n_tokens, before + n_header


def _packed(tokens: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(tokens)}i", *tokens)


def _unpacked(data: bytes) -> tuple[int, ...]:
    count = len(data) // _TOKEN_BYTES
    return struct.unpack(f"<{count}i", data[: count * _TOKEN_BYTES])
