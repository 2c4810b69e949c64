"""Where the keys and values of all sequences live."""

import mmap
import sys
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeai.engines.onnx.session import Binding, value
from edgeai.engines.onnx.signature import CacheEntry, Signature
from edgeai.errors import OutOfMemory

__all__ = ["Cache", "GrowingCache", "SharedCache", "make_cache"]


class Cache(Protocol):
    """Past keys and values, by sequence."""

    @property
    def joins(self) -> bool:
        """Whether neighbouring sequences can run in one batch."""
        ...

    def bind(self, binding: Binding, seqs: range, n_past: int, *, fresh: bool) -> None:
        """Make the binding read the first ``n_past`` entries of ``seqs`` and write new ones.

        ``fresh`` is false when the same sequences were bound to it before.
        """
        ...

    def keep(self, binding: Binding, seq: int, n_past: int) -> None:
        """The binding has run; the sequence has ``n_past`` entries now."""
        ...

    def clear(self, seq: int) -> None:
        """Give the sequence's memory back."""
        ...

    def copy(self, source: int, target: int, length: int) -> None:
        """Give ``target`` the first ``length`` entries of ``source``."""
        ...

    def save(self, seq: int, length: int) -> bytearray:
        """The first ``length`` entries of all layers, as bytes."""
        ...

    def load(self, seq: int, length: int, data: bytearray) -> bool:
        """Put saved entries into the sequence; False when there are more or fewer bytes than they take."""
        ...


def make_cache(signature: Signature, *, n_seq: int, n_ctx: int) -> Cache:
    """The best cache that the graph allows. Raises OutOfMemory."""
    if signature.shared:
        return SharedCache(signature.cache, n_seq=n_seq, n_ctx=n_ctx)
    return GrowingCache(signature.cache, n_seq=n_seq)


class SharedCache:
    """One buffer as past and present: new entries are written in place, and nothing is copied.

    Each sequence's part is as long as the context, but the system gives memory only for what was written.
    """

    joins = True

    def __init__(self, entries: Sequence[CacheEntry], *, n_seq: int, n_ctx: int) -> None:
        self._entries = entries
        shapes = [(n_seq, entry.heads, n_ctx, entry.width) for entry in entries]
        sizes = [_size(shape, entry) for shape, entry in zip(shapes, entries, strict=True)]
        pages = [-(-size // mmap.PAGESIZE) * mmap.PAGESIZE for size in sizes]
        self._starts = np.cumsum([0, *pages]).tolist()
        self._parts = [size // n_seq for size in sizes]
        self._memory = _reserve(self._starts[-1], n_ctx)
        self._arrays: list[NDArray[Any]] = [
            np.frombuffer(self._memory, entry.dtype, int(np.prod(shape)), start).reshape(shape)
            for entry, shape, start in zip(entries, shapes, self._starts, strict=False)
        ]

    def bind(self, binding: Binding, seqs: range, n_past: int, *, fresh: bool) -> None:
        """Nothing to do for a binding that knows the buffers; the graph is told ``n_past`` otherwise."""
        if not fresh:
            return
        for entry, array in zip(self._entries, self._arrays, strict=True):
            both = value(array[seqs.start : seqs.stop])
            binding.input(entry.past, both)
            binding.output(entry.present, both)

    def keep(self, binding: Binding, seq: int, n_past: int) -> None:
        """What is new is there already."""

    def clear(self, seq: int) -> None:
        """Let the system take its pages back, where it can."""
        if sys.platform == "win32":
            return
        for start, part in zip(self._starts, self._parts, strict=False):
            first = -(-(start + seq * part) // mmap.PAGESIZE) * mmap.PAGESIZE
            last = (start + (seq + 1) * part) // mmap.PAGESIZE * mmap.PAGESIZE
            if last > first:
                self._memory.madvise(mmap.MADV_DONTNEED, first, last - first)

    def copy(self, source: int, target: int, length: int) -> None:
        """In all layers."""
        for array in self._arrays:
            array[target, :, :length] = array[source, :, :length]

    def save(self, seq: int, length: int) -> bytearray:
        """One layer after the other."""
        return bytearray().join(array[seq, :, :length].tobytes() for array in self._arrays)

    def load(self, seq: int, length: int, data: bytearray) -> bool:
        """As `save` gave them."""
        loaded = _loaded(self._entries, length, data)
        for array, values in zip(self._arrays, loaded, strict=False):
            array[seq, :, :length] = values
        return bool(loaded)


class GrowingCache:
    """For graphs that join past and new entries into a longer present: it becomes the next past."""

    joins = False

    def __init__(self, entries: Sequence[CacheEntry], *, n_seq: int) -> None:
        self._entries = entries
        self._nothing = [value(np.zeros((1, e.heads, 0, e.width), e.dtype)) for e in entries]
        self._values = [self._nothing] * n_seq
        self._lengths = [0] * n_seq

    def bind(self, binding: Binding, seqs: range, n_past: int, *, fresh: bool) -> None:
        """Give the past, of exactly this length, and leave the present to ONNX Runtime's memory."""
        self._cut(seqs.start, n_past)
        for entry, past in zip(self._entries, self._values[seqs.start], strict=True):
            binding.input(entry.past, past)
            binding.new_output(entry.present)  # each time: it would write to the last one otherwise

    def keep(self, binding: Binding, seq: int, n_past: int) -> None:
        """Take the present over: it was bound last."""
        self._values[seq] = list(binding.outputs()[-len(self._entries) :])
        self._lengths[seq] = n_past

    def clear(self, seq: int) -> None:
        """Drop everything."""
        self._values[seq], self._lengths[seq] = self._nothing, 0

    def copy(self, source: int, target: int, length: int) -> None:
        """Values are never written again, so they can be shared."""
        self._values[target], self._lengths[target] = self._values[source], self._lengths[source]
        self._cut(target, length)

    def save(self, seq: int, length: int) -> bytearray:
        """One layer after the other."""
        return bytearray().join(past.numpy()[0, :, :length].tobytes() for past in self._values[seq])

    def load(self, seq: int, length: int, data: bytearray) -> bool:
        """As `save` gave them."""
        loaded = _loaded(self._entries, length, data)
        if loaded:
            self._values[seq] = [value(array[np.newaxis].copy()) for array in loaded]
            self._lengths[seq] = length
        return bool(loaded)

    def _cut(self, seq: int, length: int) -> None:
        if length < self._lengths[seq]:
            self._values[seq] = [value(past.numpy()[:, :, :length].copy()) for past in self._values[seq]]
            self._lengths[seq] = length


def _loaded(entries: Sequence[CacheEntry], length: int, data: bytearray) -> list[NDArray[Any]]:
    """The arrays of all entries, views of ``data``; none if the size is wrong."""
    shapes = [(entry.heads, length, entry.width) for entry in entries]
    ends = np.cumsum([_size(shape, entry) for shape, entry in zip(shapes, entries, strict=True)]).tolist()
    if ends[-1:] != [len(data)]:
        return []
    return [
        np.frombuffer(data, entry.dtype, int(np.prod(shape)), start).reshape(shape)
        for entry, shape, start in zip(entries, shapes, [0, *ends], strict=False)
    ]


def _size(shape: tuple[int, ...], entry: CacheEntry) -> int:
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(entry.dtype).itemsize


def _reserve(size: int, n_ctx: int) -> mmap.mmap:
    try:
        if sys.platform == "win32":
            return mmap.mmap(-1, size)
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, ValueError, OverflowError) as error:
        raise OutOfMemory(
            f"There is no memory for a context of {n_ctx} tokens ({size / 2**20:.0f} MiB)",
            why=str(error),
            remedy="Use a smaller n_ctx",
        ) from error
