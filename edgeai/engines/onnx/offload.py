"""Graphs of a fixed length on another device: the first tokens of a prompt, or a whole text.

What fails there is done on the processor, and told in the log and the answer; it was tried before, in a
process of its own.
"""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgeai.engines import DevicePlan, Offload, Work
from edgeai.engines.onnx.proto import read_graph
from edgeai.engines.onnx.session import Session
from edgeai.engines.onnx.signature import HIDDEN, Signature
from edgeai.engines.onnx.vetting import check
from edgeai.engines.whereabouts import Whereabouts
from edgeai.errors import EdgeError, EngineError, EngineLoadFailed

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Chunk", "open_chunks"]

_IDS: Final = "input_ids"
_MASK: Final = "attention_mask"
_TYPES: Final = "token_type_ids"
_LABELS: Final = "logits"
_log = logging.getLogger("edgeai.onnx")


class Chunk:
    """One such graph; ``signature`` is that of the decoder to which it belongs, None for an encoder.

    ``whereabouts`` is told when it fails.

    Safe from any thread. Raises ModelError's leaves, EngineLoadFailed, OutOfMemory.
    """

    def __init__(
        self, offload: Offload, plan: DevicePlan, whereabouts: Whereabouts, signature: Signature | None = None
    ) -> None:
        if offload.compiled is None:
            check(read_graph(Path(offload.graph)), Path(offload.graph))
        self.length = offload.tokens
        self._offload, self._whereabouts, self._broken = offload, whereabouts, False
        self._lock = threading.Lock()
        self._session = Session(Path(offload.compiled or offload.graph), plan, offload)
        self._outputs = _wanted_outputs(self._session, offload, signature)
        inputs = self._session.inputs
        known = (_IDS, _MASK, _TYPES)
        strange = [n for n, p in inputs.items() if n not in known or p.shape != (1, self.length)]
        if strange or _IDS not in inputs:
            raise _misfit(offload, f"its inputs are {', '.join(inputs)}")

    def states(self, tokens: Sequence[int]) -> "NDArray[np.float32] | None":
        """The last hidden states of the tokens, (n, n_embd); None when it failed."""
        found = self._run(tokens)
        return None if found is None else np.asarray(found[0][0, : len(tokens)], np.float32)

    def logits(self, tokens: Sequence[int]) -> "NDArray[np.float32] | None":
        """A classifier's number for each label; None when it failed."""
        found = self._run(tokens)
        return None if found is None else np.asarray(found[0][0], np.float32)

    def entries(self, tokens: Sequence[int]) -> bytearray | None:
        """Keys and values of the tokens in all layers, as `Cache.load` takes them; None when it failed."""
        found = self._run(tokens)
        n = len(tokens)
        return None if found is None else bytearray().join(array[0, :, :n].tobytes() for array in found)

    def _run(self, tokens: Sequence[int]) -> "list[NDArray[Any]] | None":
        if self._broken:
            return None
        rest = [0] * (self.length - len(tokens))
        rows = {_IDS: [*tokens, *rest], _MASK: [*[1] * len(tokens), *rest], _TYPES: [0] * self.length}
        feeds = {name: np.asarray([rows[name]], port.dtype) for name, port in self._session.inputs.items()}
        try:
            with self._lock:
                found = self._session.run(feeds, self._outputs)
            if not all(np.isfinite(array).all() for array in found):
                raise EngineError("It computes no numbers")
        except EngineError as error:
            self._give_up(error)
            return None
        return found

    def _give_up(self, error: EngineError) -> None:
        with self._lock:
            if self._broken:
                return
            self._broken = True
        about = self._offload
        self._whereabouts.give_up(about.work, about.provider, f"failed: {error}")
        _log.warning("%s on %s failed, the processor goes on: %s", about.work, about.provider, error)


def open_chunks(plan: DevicePlan, signature: Signature) -> tuple[dict[Work, Chunk], Whereabouts]:
    """The plan's graphs by their work, and its steps with those that could not be opened.

    Raises what `Chunk` raises for a device that must be had.
    """
    chunks: dict[Work, Chunk] = {}
    whereabouts = Whereabouts(plan.steps)
    for offload in plan.offloads:
        if offload.work == "decode":  # by the main graph
            continue
        try:
            chunks[offload.work] = Chunk(offload, plan, whereabouts, signature)
        except EdgeError as error:
            if offload.required:
                raise
            _log.warning("%s on %s is done by the processor: %s", offload.work, offload.provider, error)
            whereabouts.give_up(offload.work, offload.provider, str(error))
    return chunks, whereabouts


def _wanted_outputs(session: Session, offload: Offload, signature: Signature | None) -> list[str]:
    """The outputs that are wanted, in order; they must be what the main graph would compute."""
    if offload.work == "prefill" and signature is not None:
        for entry in signature.cache:
            port = session.outputs.get(entry.present)
            wanted = (1, entry.heads, offload.tokens, entry.width)
            if port is None or port.shape != wanted or port.dtype != entry.dtype:
                raise _misfit(offload, f"its output {entry.present} is {port and port.shape}, not {wanted}")
        return [entry.present for entry in signature.cache]
    names = {"embed": HIDDEN, "classify": (_LABELS,)}.get(offload.work, ())
    name = next((name for name in names if name in session.outputs), None)
    width = None if name is None else session.outputs[name].shape[-1]
    if name is None or (signature and signature.n_embd not in (None, width)):
        raise _misfit(offload, f"its outputs are {', '.join(session.outputs)}")
    return [name]


def _misfit(offload: Offload, why: str) -> EngineLoadFailed:
    name = Path(offload.graph).name
    return EngineLoadFailed(f"{name} does not fit the model", why=why, remedy="Make the package again")
