"""A context on paper: its cells follow llama.cpp's rules, and its next token depends on all it was fed.

A mistake in the bookkeeping (a cell too many, a stale one, another sequence's) is an error or another answer.
"""

import threading
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeai.engines.context import ABORTED, FULL
from edgeai.errors import EngineError

N_VOCAB = 32
END = 0


@dataclass(eq=False)
class _Cell:
    token: int
    pos: int
    seqs: set[int] = field(default_factory=set)


class PaperContext:
    """Raises AssertionError for what llama.cpp would refuse or compute wrongly."""

    n_batch = 16

    def __init__(self, n_cells: int, *, step_s: float = 0.0) -> None:
        self.n_cells, self.n_tokens = n_cells, 0
        self.fails: list[int] = []
        self.sizes: list[int] = []
        self.most_cells = 0
        self._step_s = step_s
        self._cells: list[_Cell] = []
        self._batch: list[_Cell] = []
        self._wanted: list[bool] = []
        self._outputs: dict[int, tuple[int, ...]] = {}
        self._abort = threading.Event()

    def add(self, tokens: Sequence[int], start: int, seq: int, *, outputs: int = 0) -> int:
        """Append; positions go on from what the sequence has."""
        held = [cell.pos for cell in (*self._cells, *self._batch) if seq in cell.seqs]
        assert sorted(held) == list(range(start)), f"sequence {seq} holds {sorted(held)}, not 0 … {start - 1}"
        for number, token in enumerate(tokens):
            self._batch.append(_Cell(token, start + number, {seq}))
            self._wanted.append(number >= len(tokens) - outputs)
        self.n_tokens = len(self._batch)
        assert self.n_tokens <= self.n_batch + 64
        return self.n_tokens - 1

    def decode(self) -> int:
        """Run the batch, or fail as told."""
        batch, wanted = self._batch, self._wanted
        self._batch, self._wanted, self.n_tokens = [], [], 0
        self._outputs.clear()
        self.sizes.append(len(batch))
        if self._abort.wait(self._step_s) or self._abort.is_set():
            self._cells += batch[: len(batch) // 2]  # what was computed before may stay
            return ABORTED
        if self.fails:
            return self.fails.pop(0)
        if len(self._cells) + len(batch) > self.n_cells:
            return FULL
        self._cells += batch
        self.most_cells = max(self.most_cells, len(self._cells))
        for row, cell in enumerate(batch):
            if wanted[row]:
                (seq,) = cell.seqs
                past = [other for other in self._cells if seq in other.seqs and other.pos <= cell.pos]
                self._outputs[row] = tuple(c.token for c in sorted(past, key=lambda other: other.pos))
        return 0

    def logits(self, row: int) -> NDArray[np.float32]:
        """Repeats itself often, so that guesses are right often; ends now and then."""
        past = self._outputs[row]
        chance = zlib.crc32(repr(past).encode())
        recent = zlib.crc32(repr(past[-2:] if chance % 8 else past).encode())
        logits = np.random.default_rng(recent).normal(size=N_VOCAB).astype(np.float32) * 3
        logits[END] = 9 if chance % 61 == 0 else -9
        return logits

    def failure(self, code: int) -> EngineError:
        """What a code means."""
        return EngineError("It failed on paper", why=f"its error code is {code}")

    def set_states(self, *, on: bool) -> None:
        """There are none."""

    def state(self, row: int) -> None:
        """There are none."""

    def forget(self, seq: int, start: int = 0) -> bool:
        """Remove the sequence's cells from ``start``; cells that nobody holds are free."""
        for cell in self._cells:
            if cell.pos >= start:
                cell.seqs.discard(seq)
        self._cells = [cell for cell in self._cells if cell.seqs]
        return True

    def share(self, source: int, target: int, end: int) -> None:
        """Cells get one holder more."""
        assert not any(target in cell.seqs for cell in self._cells)
        for cell in self._cells:
            if source in cell.seqs and cell.pos < end:
                cell.seqs.add(target)

    def abort(self) -> None:
        """Stop decodes until `proceed`."""
        self._abort.set()

    def proceed(self) -> None:
        """Go on."""
        self._abort.clear()

    def free(self) -> None:
        """Nothing to give back."""
        time.sleep(0)
