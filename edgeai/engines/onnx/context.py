"""One native context: a batch, the KV cache of its sequences, and the outputs of the last decode.

Sequences that make their next token run together where the graph allows it: weights are read once for all
(measured with 8-bit weights on one core: 104 tokens a second alone, 255 with four). Prompts run alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from edgeai.engines.context import ABORTED, MAX_OUTPUTS
from edgeai.engines.onnx.cache import make_cache
from edgeai.engines.onnx.feeds import Feeds
from edgeai.engines.onnx.offload import Chunk
from edgeai.engines.onnx.session import Binding, Port, Session, Stop, give_back, value
from edgeai.engines.onnx.sessions import Sessions
from edgeai.engines.onnx.signature import Signature
from edgeai.engines.pace import Pace
from edgeai.errors import EngineError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.floating]

__all__ = ["MAX_OUTPUTS", "N_BATCH", "Context"]

N_BATCH: Final = 256
"""Tokens of a batch. More are no faster, and attention takes memory for each times the context."""


_FAILED: Final = -1


@dataclass(frozen=True, slots=True)
class _Piece:
    """Tokens of one sequence in the batch; ``row`` is the first one's output, None if none is wanted."""

    tokens: Sequence[int]
    start: int
    seq: int
    row: int | None


@dataclass(frozen=True, slots=True)
class _Step:
    """The run that makes one token for each of ``seqs``: bound once, and told what is new."""

    seqs: range
    binding: Binding
    feeds: Feeds
    rows: "Rows"
    states: "Rows | None"


class Context:
    """Belongs to one thread, except for `abort` and `proceed`. ``n_ctx`` is in tokens per sequence.

    ``head`` computes the first tokens of a sequence elsewhere. Raises OutOfMemory.
    """

    def __init__(
        self,
        sessions: Sessions,
        signature: Signature,
        *,
        n_ctx: int,
        n_seq: int,
        head: Chunk | None = None,
    ) -> None:
        self._sessions, self._pace = sessions, Pace(sessions.n_threads, follow_load=False)
        self._session: Session | None = sessions.first
        self._head = head
        self._signature = signature
        self._cache = make_cache(signature, n_seq=n_seq, n_ctx=n_ctx)
        self._used = [0] * n_seq
        self._steps: dict[tuple[Session, range, bool], _Step] = {}
        self._stop = Stop()
        self._pieces: list[_Piece] = []
        self._found: dict[int, Rows] = {}
        self._found_states: dict[int, Rows] = {}
        self._failure = EngineError("ONNX Runtime has not failed")
        self._embedding = self._states = False
        self.n_ctx = n_ctx
        self.n_batch = N_BATCH
        self.n_tokens = self._n_rows = 0

    def follow(self, pace: Pace) -> None:
        """Let ``pace`` say how many threads, as far as there are sessions; before its thread has begun."""
        self._pace = pace

    # the batch

    def add(self, tokens: Sequence[int], start: int, seq: int, *, outputs: int = 0) -> int:
        """Append ``tokens`` of sequence ``seq`` from position ``start``; the last ``outputs`` give logits.

        Returns the row of the last one. The caller keeps within N_BATCH and MAX_OUTPUTS.
        """
        silent = len(tokens) - outputs
        if silent:
            self._pieces.append(_Piece(tokens[:silent], start, seq, None))
        if outputs:
            self._pieces.append(_Piece(tokens[silent:], start + silent, seq, self._n_rows))
        self._n_rows += outputs
        self.n_tokens += len(tokens)
        return self._n_rows - 1

    def decode(self) -> int:
        """Run the batch and empty it: 0 is success, 2 aborted, below 0 failed (see `failure`)."""
        pieces, n_tokens = self._pieces, self.n_tokens
        self._pieces, self._n_rows, self.n_tokens = [], 0, 0
        self._found.clear()
        self._found_states.clear()
        session = self._sessions.at(self._pace.begin())
        self._session = session or self._session
        try:
            done = self._run_all(pieces)
        except EngineError as error:
            self._failure = error
            return _FAILED
        if done and session is None:
            self._pace.end_otherwise()
        elif done:
            self._pace.end(n_tokens)
        return 0 if done else ABORTED

    def failure(self, code: int) -> EngineError:
        """What a code of `decode` below 0 means."""
        return self._failure

    def logits(self, row: int) -> "NDArray[np.float32]":
        """The raw logits of ``row``, valid until the next decode."""
        return np.asarray(self._found[row], np.float32)

    def set_embeddings(self, *, on: bool) -> None:
        """With it rows are the last layer's hidden states, instead of logits."""
        self._embedding = on

    def set_states(self, *, on: bool) -> None:
        """With it, tokens that run alone or together give their hidden state beside their logits."""
        self._states = on and self._signature.hidden is not None

    def state(self, row: int) -> "NDArray[np.float32] | None":
        """The last layer's state of ``row``, valid until the next decode; None without `set_states`."""
        found = self._found_states.get(row)
        return None if found is None else np.asarray(found, np.float32)

    def _run_all(self, pieces: Sequence[_Piece]) -> bool:
        """Run the pieces; False if they were stopped."""
        single = [piece for piece in pieces if len(piece.tokens) == 1 and piece.row is not None]
        steps = [] if self._embedding else single
        rest = [piece for piece in pieces if piece not in steps]
        groups = [steps] if self._can_join(steps) else [[piece] for piece in steps]
        return all(map(self._run_step, groups)) and all(map(self._run, rest))

    def _can_join(self, steps: Sequence[_Piece]) -> bool:
        """Sequences between those that are to run come along, if a useless entry at their end fits."""
        if len(steps) < 2 or not self._cache.joins:
            return False
        wanted = {piece.seq for piece in steps}
        between = set(_span(steps)) - wanted
        return len(wanted) == len(steps) and all(self._used[seq] < self.n_ctx for seq in between)

    def _run_step(self, pieces: Sequence[_Piece]) -> bool:
        """One token of each: the same run again and again, only numbers in bound arrays change."""
        seqs = _span(pieces)
        step, known = self._step(seqs), {piece.seq: piece for piece in pieces}
        lengths = []
        for number, seq in enumerate(seqs):
            piece = known.get(seq)
            start = piece.start if piece else self._used[seq]
            step.feeds.fill(number, piece.tokens if piece else (0,), start)
            lengths.append(start + 1)
        step.feeds.end(lengths)
        self._cache.bind(step.binding, seqs, lengths[0] - 1, fresh=False)
        if not step.binding.run(self._stop):
            return False
        for piece in pieces:
            self._note(step.binding, piece)
            assert piece.row is not None
            self._found[piece.row] = step.rows[piece.seq - seqs.start]
            if step.states is not None:
                self._found_states[piece.row] = step.states[piece.seq - seqs.start]
        return True

    def _step(self, seqs: range) -> _Step:
        assert self._session is not None, "the context is closed"
        key = (self._session, seqs, self._states)
        step = self._steps.get(key)
        if step is None:
            binding, n = self._new_binding(), len(seqs)
            rows = self._bind_rows(binding, n, 1)
            states = self._bind(binding, self._signature.hidden, n, 1) if self._states else None
            self._cache.bind(binding, seqs, self._used[seqs.start], fresh=True)
            feeds = Feeds(binding, self._signature.inputs, n, 1, wanted=True)
            step = self._steps[key] = _Step(seqs, binding, feeds, rows, states)
        return step

    def _run(self, piece: _Piece) -> bool:
        """Some tokens of one sequence."""
        if done := self._begin(piece):
            if done == len(piece.tokens):
                return True
            piece = _Piece(piece.tokens[done:], done, piece.seq, None)
        binding, n, wanted = self._new_binding(), len(piece.tokens), piece.row is not None
        rows = self._bind_rows(binding, 1, n) if wanted else ()
        seqs = range(piece.seq, piece.seq + 1)
        self._cache.bind(binding, seqs, piece.start, fresh=True)
        feeds = Feeds(binding, self._signature.inputs, 1, n, wanted=wanted)
        feeds.fill(0, piece.tokens, piece.start)
        feeds.end([piece.start + n])
        if not binding.run(self._stop, partly=self._embedding or not wanted):
            return False
        self._note(binding, piece)
        for number, row in enumerate(rows, start=piece.row or 0):
            self._found[number] = row
        return True

    def _begin(self, piece: _Piece) -> int:
        """How many of the tokens the other device did; those of a sequence's beginning, if they fill half."""
        head = self._head
        if head is None or piece.start or piece.row is not None or self._embedding:
            return 0
        tokens = piece.tokens[: head.length]
        data = head.entries(tokens) if 2 * len(tokens) >= head.length else None
        if data is None or not self._cache.load(piece.seq, len(tokens), data):
            return 0
        self._used[piece.seq] = len(tokens)
        return len(tokens)

    def _note(self, binding: Binding, piece: _Piece) -> None:
        self._used[piece.seq] = piece.start + len(piece.tokens)
        self._cache.keep(binding, piece.seq, self._used[piece.seq])

    def _bind_rows(self, binding: Binding, batch: int, n: int) -> "Rows":
        """Where the outputs of the wanted tokens go: an array of one row each."""
        port = self._signature.hidden if self._embedding else self._signature.logits
        return self._bind(binding, port, batch, n)

    def _bind(self, binding: Binding, port: Port | None, batch: int, n: int) -> "Rows":
        assert port is not None  # the engine refuses to embed without, and `set_states` does nothing
        rows: Rows = np.empty((batch * n, port.shape[-1] or 0), port.dtype)
        binding.output(port.name, value(rows if len(port.shape) == 2 else rows.reshape(batch, n, -1)))
        return rows

    def _new_binding(self) -> Binding:
        assert self._session is not None, "the context is closed"
        return self._session.new_binding()

    # the KV cache

    def forget(self, seq: int, start: int = 0) -> bool:
        """Remove the sequence's entries from position ``start``."""
        if start <= 0 < self._used[seq]:
            self._cache.clear(seq)
        self._used[seq] = min(self._used[seq], start)
        return True

    def share(self, source: int, target: int, end: int) -> None:
        """Give ``target`` a copy of the first ``end`` entries of ``source``."""
        self._cache.copy(source, target, end)
        self._used[target] = end

    def save(self, seq: int) -> bytearray:
        """All that the sequence holds."""
        return self._cache.save(seq, self._used[seq])

    def load(self, seq: int, n_tokens: int, data: bytearray) -> bool:
        """Put ``n_tokens`` that `save` gave into the empty sequence; False when they do not fit."""
        if n_tokens > self.n_ctx or not self._cache.load(seq, n_tokens, data):
            return False
        self._used[seq] = n_tokens
        return True

    # control

    def abort(self) -> None:
        """Stop the running decode, and later ones, until `proceed`. Safe from any thread."""
        self._stop.stop()

    def proceed(self) -> None:
        """Let decodes run again."""
        self._stop.proceed()

    def free(self) -> None:
        """Give the memory back; the context is unusable afterwards."""
        self._steps.clear()
        self._found.clear()
        del self._cache
        self._session = self._head = None
        self._sessions.close()
        give_back()


def _span(pieces: Sequence[_Piece]) -> range:
    """All sequences from the first to the last of the pieces'."""
    seqs = [piece.seq for piece in pieces]
    return range(min(seqs), max(seqs) + 1)
