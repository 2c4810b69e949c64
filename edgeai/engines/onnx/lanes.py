"""Where the keys and values of one sequence live: one lane a sequence."""

import mmap
from typing import Any, Final, Protocol

import numpy as np

from edgeai.engines.onnx.session import Binding, value
from edgeai.engines.onnx.signature import CacheEntry, Signature
from edgeai.errors import OutOfMemory

__all__ = ["GrowingLane", "Lane", "SharedLane", "make_lane"]

_ALIGNMENT: Final = 64


class Lane(Protocol):
    """The cache of one sequence."""

    def bind(self, binding: Binding, n_past: int, *, fresh: bool) -> None:
        """Make the binding read the first ``n_past`` entries and write new ones.

        ``fresh`` is false when this lane was bound to it before.
        """
        ...

    def keep(self, binding: Binding, n_past: int) -> None:
        """The binding has run; the lane holds ``n_past`` entries now."""
        ...

    def cut(self, length: int) -> None:
        """Forget all entries from ``length`` on."""
        ...

    def take(self, other: Any, length: int) -> None:  # noqa: ANN401  # a lane of the same kind
        """Hold a copy of the first ``length`` entries of another lane."""
        ...


def make_lane(signature: Signature, n_ctx: int) -> "SharedLane | GrowingLane":
    """The best lane that the graph allows. Raises OutOfMemory."""
    return SharedLane(signature.cache, n_ctx) if signature.shared else GrowingLane(signature.cache)


class SharedLane:
    """One buffer as past and present: new entries are written in place and nothing is copied.

    The buffer is as long as the context, but the system gives memory only for what has been written.
    """

    def __init__(self, entries: tuple[CacheEntry, ...], n_ctx: int) -> None:
        shapes = [(1, entry.heads, n_ctx, entry.width) for entry in entries]
        sizes = [int(np.prod(s)) * np.dtype(e.dtype).itemsize for s, e in zip(shapes, entries, strict=True)]
        starts = np.cumsum([0, *(-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes)])
        try:
            memory = mmap.mmap(-1, int(starts[-1]))
        except (OSError, ValueError, OverflowError) as error:
            mib = int(starts[-1]) / 2**20
            raise OutOfMemory(
                f"There is no memory for a context of {n_ctx} tokens ({mib:.0f} MiB)",
                why=str(error),
                remedy="Use a smaller n_ctx",
            ) from error
        self._arrays = [
            np.frombuffer(memory, entry.dtype, int(np.prod(shape)), int(start)).reshape(shape)
            for entry, shape, start in zip(entries, shapes, starts, strict=False)
        ]
        self._entries = entries

    def bind(self, binding: Binding, n_past: int, *, fresh: bool) -> None:
        """Nothing to do for a binding that knows the buffer; the graph is told ``n_past`` otherwise."""
        if not fresh:
            return
        for entry, array in zip(self._entries, self._arrays, strict=True):
            both = value(array)
            binding.input(entry.past, both)
            binding.output(entry.present, both)

    def keep(self, binding: Binding, n_past: int) -> None:
        """What is new is there already."""

    def cut(self, length: int) -> None:
        """Entries beyond what the graph is told are never read."""

    def take(self, other: "SharedLane", length: int) -> None:
        """Copy the head of the other buffer."""
        for mine, theirs in zip(self._arrays, other._arrays, strict=True):
            mine[:, :, :length] = theirs[:, :, :length]


class GrowingLane:
    """For graphs that join past and new entries into a longer present: it becomes the next past."""

    def __init__(self, entries: tuple[CacheEntry, ...]) -> None:
        self._entries = entries
        self._values = [value(np.zeros((1, e.heads, 0, e.width), e.dtype)) for e in entries]
        self._length = 0

    def bind(self, binding: Binding, n_past: int, *, fresh: bool) -> None:
        """Give the past, of exactly this length, and leave the present to ONNX Runtime's memory."""
        self.cut(n_past)
        for entry, past in zip(self._entries, self._values, strict=True):
            binding.input(entry.past, past)
            if fresh:
                binding.new_output(entry.present)

    def keep(self, binding: Binding, n_past: int) -> None:
        """Take the present over."""
        self._values = list(binding.outputs())[-len(self._entries) :]
        self._length = n_past

    def cut(self, length: int) -> None:
        """Copy the head."""
        if length < self._length:
            self._values = [value(past.numpy()[:, :, :length].copy()) for past in self._values]
            self._length = length

    def take(self, other: "GrowingLane", length: int) -> None:
        """Values are never written again, so they can be shared."""
        self._values, self._length = list(other._values), other._length
        self.cut(length)
