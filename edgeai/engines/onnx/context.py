"""One native context: a batch, the KV cache of its sequences, and the outputs of the last decode.

The sequences of a batch run one after the other, each for itself: what a query computes does not depend on
its company. (Together they would be no faster: measured, weights are read from the cache by the second.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgeai.engines.onnx.lanes import GrowingLane, SharedLane, make_lane
from edgeai.engines.onnx.session import Binding, Port, Session, Stop, value
from edgeai.engines.onnx.signature import Signature
from edgeai.engines.scheduler import ABORTED
from edgeai.errors import EngineError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MAX_OUTPUTS", "N_BATCH", "Context"]

N_BATCH: Final = 256
"""Tokens of a batch. More are no faster, and attention takes memory for each times the context."""

MAX_OUTPUTS: Final = 64
"""Most tokens of one batch whose logits or hidden states are kept: each costs 4 bytes × vocabulary."""

_FAILED: Final = -1


@dataclass(frozen=True, slots=True)
class _Piece:
    """Tokens of one sequence in the batch; ``row`` is the first one's output, None if none is wanted."""

    tokens: Sequence[int]
    start: int
    seq: int
    row: int | None


@dataclass(slots=True)
class _Step:
    """The run that makes one token: bound once, and told what is new."""

    binding: Binding
    feeds: "_Feeds"
    row: int


class Context:
    """Belongs to one thread, except for `abort` and `proceed`. ``n_ctx`` is in tokens per sequence."""

    def __init__(self, session: Session, signature: Signature, *, n_ctx: int, n_seq: int) -> None:
        self._session: Session | None = session
        self._signature = signature
        self._stop = Stop()
        self._lanes: list[SharedLane | GrowingLane | None] = [None] * n_seq
        self._steps: list[_Step | None] = [None] * n_seq
        self._pieces: list[_Piece] = []
        self._rows = 0
        self._failure = EngineError("ONNX Runtime has not failed")
        self._ones = np.ones((1, n_ctx), signature.inputs.get("attention_mask", np.int64))
        self._logits = np.empty((MAX_OUTPUTS, signature.n_vocab), signature.logits.dtype)
        hidden = signature.hidden
        self._hidden = np.empty((MAX_OUTPUTS, signature.n_embd or 0), hidden.dtype if hidden else np.float32)
        self._embedding = False
        self.n_ctx = n_ctx
        self.n_batch = N_BATCH
        self.n_tokens = 0

    # the batch

    def add(self, tokens: Sequence[int], start: int, seq: int, *, outputs: int = 0) -> int:
        """Append ``tokens`` of sequence ``seq`` from position ``start``; the last ``outputs`` give logits.

        Returns the row of the last one. The caller keeps within N_BATCH and MAX_OUTPUTS.
        """
        silent = len(tokens) - outputs
        if silent:
            self._pieces.append(_Piece(tokens[:silent], start, seq, None))
        if outputs:
            self._pieces.append(_Piece(tokens[silent:], start + silent, seq, self._rows))
        self._rows += outputs
        self.n_tokens += len(tokens)
        return self._rows - 1

    def discard(self) -> None:
        """Empty the batch without running it."""
        self._pieces, self._rows, self.n_tokens = [], 0, 0

    def decode(self) -> int:
        """Run the batch and empty it: 0 is success, 2 aborted, below 0 failed (see `failure`)."""
        pieces = self._pieces
        self.discard()
        try:
            done = all(map(self._run, pieces))
        except EngineError as error:
            self._failure = error
            return _FAILED
        return 0 if done else ABORTED

    def failure(self, code: int) -> EngineError:
        """What a code of `decode` below 0 means."""
        return self._failure

    def logits(self, row: int) -> "NDArray[np.float32]":
        """The raw logits of ``row``, valid until the next decode."""
        return np.asarray(self._logits[row], np.float32)

    def hidden(self, row: int) -> "NDArray[np.float32]":
        """The last layer's hidden state of ``row``; needs `set_embeddings` before the decode."""
        return np.asarray(self._hidden[row], np.float32)

    def set_embeddings(self, *, on: bool) -> None:
        """With it batches give hidden states, and no logits."""
        self._embedding = on

    def _run(self, piece: _Piece) -> bool:
        lane = self._lanes[piece.seq]
        if lane is None:
            lane = self._lanes[piece.seq] = make_lane(self._signature, self.n_ctx)
        if piece.row is not None and len(piece.tokens) == 1 and not self._embedding:
            return self._run_step(lane, piece, piece.row)
        binding = self._open_session().new_binding()
        if piece.row is not None:
            self._bind_rows(binding, piece.row, len(piece.tokens))
        feeds = _Feeds(binding, self._signature, len(piece.tokens), wanted=piece.row is not None)
        lane.bind(binding, piece.start, fresh=True)
        feeds.fill(piece.tokens, piece.start, self._ones)
        whole = piece.row is not None and not self._embedding
        if not binding.run(self._stop, partly=not whole):
            return False
        lane.keep(binding, piece.start + len(piece.tokens))
        return True

    def _run_step(self, lane: SharedLane | GrowingLane, piece: _Piece, row: int) -> bool:
        """The same run again and again: only numbers in bound arrays change."""
        step = self._steps[piece.seq]
        fresh = step is None
        if step is None:
            binding = self._open_session().new_binding()
            self._bind_rows(binding, row, 1)
            step = _Step(binding, _Feeds(binding, self._signature, 1, wanted=True), row)
            self._steps[piece.seq] = step
        elif step.row != row:
            self._bind_rows(step.binding, row, 1)
            step.row = row
        lane.bind(step.binding, piece.start, fresh=fresh)
        step.feeds.fill(piece.tokens, piece.start, self._ones)
        if not step.binding.run(self._stop):
            return False
        lane.keep(step.binding, piece.start + 1)
        return True

    def _bind_rows(self, binding: Binding, row: int, count: int) -> None:
        """Where the outputs of the wanted tokens go."""
        port: Port | None = self._signature.hidden if self._embedding else self._signature.logits
        assert port is not None  # the engine refuses to embed without
        rows = (self._hidden if self._embedding else self._logits)[row : row + count]
        binding.output(port.name, value(rows if len(port.shape) == 2 else rows[None]))

    def _open_session(self) -> Session:
        assert self._session is not None, "the context is closed"
        return self._session

    # the KV cache

    def forget(self, seq: int, start: int = 0) -> bool:
        """Remove the sequence's entries from position ``start``."""
        lane = self._lanes[seq]
        if lane is not None and start > 0:
            lane.cut(start)
        else:
            self._lanes[seq] = self._steps[seq] = None
        return True

    def share(self, source: int, target: int, end: int) -> None:
        """Give ``target`` a copy of the first ``end`` entries of ``source``."""
        given = self._lanes[source]
        assert given is not None, "only what is there can be shared"
        taken: Any = make_lane(self._signature, self.n_ctx)
        taken.take(given, end)
        self._lanes[target], self._steps[target] = taken, None

    # control

    def abort(self) -> None:
        """Stop the running decode, and later ones, until `proceed`. Safe from any thread."""
        self._stop.stop()

    def proceed(self) -> None:
        """Let decodes run again."""
        self._stop.proceed()

    def free(self) -> None:
        """Give the memory back; the context is unusable afterwards."""
        self._lanes = [None] * len(self._lanes)
        self._steps = [None] * len(self._steps)
        self._session = None


class _Feeds:
    """The inputs of a run of ``n`` tokens, bound to arrays that `fill` writes to."""

    def __init__(self, binding: Binding, signature: Signature, n: int, *, wanted: bool) -> None:
        shapes = {
            "input_ids": (1, n),
            "position_ids": (1, n),
            "seqlens_k": (1,),
            "total_sequence_length": (),
            "logits_index": (n if wanted else 0,),
            "use_cache_branch": (1,),
        }
        types = signature.inputs
        arrays = {name: np.zeros(shapes[name], types[name]) for name in types if name in shapes}
        for name, array in arrays.items():
            binding.input(name, value(array))
        if "logits_index" in arrays:
            arrays["logits_index"][:] = np.arange(len(arrays["logits_index"]))
        if "use_cache_branch" in arrays:
            arrays["use_cache_branch"][:] = True
        self._binding = binding
        self._masked = "attention_mask" in types
        self._ids, self._positions = arrays["input_ids"], arrays.get("position_ids")
        self._before, self._after = arrays.get("seqlens_k"), arrays.get("total_sequence_length")

    def fill(self, tokens: Sequence[int], start: int, ones: "NDArray[np.integer[Any]]") -> None:
        """Say which tokens come next, and after how many."""
        end = start + len(tokens)
        self._ids[0] = tokens
        if self._positions is not None:
            self._positions[0] = np.arange(start, end)
        if self._before is not None:
            self._before[0] = end - 1
        if self._after is not None:
            self._after[()] = end
        if self._masked:
            self._binding.input("attention_mask", value(ones[:, :end]))
