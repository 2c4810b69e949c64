"""One native context: a batch, the KV cache of its sequences, and the outputs of the last decode."""

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from edgeai.engines.context import MAX_OUTPUTS
from edgeai.engines.llamacpp.binding import (
    ABORT_FUNCTION,
    complaints,
    embedding_address,
    logits_address,
    native,
    refusal,
)
from edgeai.engines.llamacpp.model import KvType, Model
from edgeai.engines.llamacpp.watch import Watch
from edgeai.engines.pace import Pacing
from edgeai.errors import EngineError, OutOfMemory

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MAX_OUTPUTS", "N_BATCH", "Context"]

N_BATCH: Final = 256
"""Most tokens of one batch. Twice as many give 1 % more prefill speed, and newcomers wait twice as long."""

_NO_MEMORY: Final = -2
"""What llama_decode returns when a buffer could not be allocated."""


class Context:
    """Belongs to one thread, except for `abort` and `proceed`. Raises EngineLoadFailed or OutOfMemory.

    ``n_ctx`` is the number of KV cells, shared by ``n_seq`` sequences. ``pace`` says how many threads.
    With ``kv_type`` "q8_0" keys and values take 34 bytes for 32 of them, and not 64. ``watch`` sees each
    node that is computed.
    """

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int,
        n_seq: int,
        pace: Pacing,
        kv_type: KvType = "f16",
        n_ubatch: int | None = None,
        flash_attn: bool | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._watch = watch  # kept alive: llama.cpp holds only an address of it
        self._n_vocab, self._n_embd = model.n_vocab, model.n_embd
        self._adapters = model.adapters
        self._flag = ctypes.create_string_buffer(b"\x00\x00", 2)
        self._handle: int | None = _open(
            model,
            n_ctx,
            n_seq,
            pace.n_threads,
            kv_type,
            n_ubatch or N_BATCH,
            flash_attn=flash_attn,
            watch=watch,
        )
        self._pace, self._n_threads = pace, pace.n_threads
        self._memory = native.llama_get_memory(self._handle)
        self.n_ctx: int = min(native.llama_n_ctx(self._handle), n_ctx)
        native.llama_set_abort_callback(self._handle, ABORT_FUNCTION, ctypes.addressof(self._flag))
        self.n_batch = N_BATCH
        self.n_ubatch: int = native.llama_n_ubatch(self._handle)
        self.n_tokens = 0
        self._views: dict[int, NDArray[np.float32]] = {}
        self._states = False
        try:
            self._allocate_batch()
        except MemoryError:
            self.free()
            raise

    def _allocate_batch(self) -> None:
        self._token = np.zeros(N_BATCH, np.int32)
        self._pos = np.zeros(N_BATCH, np.int32)
        self._seq = np.zeros(N_BATCH, np.int32)
        self._wanted = np.zeros(N_BATCH, np.int8)
        self._n_seq = np.ones(N_BATCH, np.int32)
        self._seq_rows = (self._seq.ctypes.data + 4 * np.arange(N_BATCH)).astype(np.uintp)
        types = dict(native.llama_batch._fields_)
        self._batch = native.llama_batch(
            n_tokens=0,
            token=self._token.ctypes.data_as(types["token"]),
            pos=self._pos.ctypes.data_as(types["pos"]),
            n_seq_id=self._n_seq.ctypes.data_as(types["n_seq_id"]),
            seq_id=self._seq_rows.ctypes.data_as(types["seq_id"]),
            logits=self._wanted.ctypes.data_as(types["logits"]),
        )

    # the batch

    def add(self, tokens: Sequence[int], start: int, seq: int, *, outputs: int = 0) -> int:
        """Append ``tokens`` of sequence ``seq`` from position ``start``; the last ``outputs`` give logits.

        Returns the row of the last one. The caller keeps within N_BATCH and MAX_OUTPUTS.
        """
        first, last = self.n_tokens, self.n_tokens + len(tokens)
        if len(tokens) == 1:
            self._token[first], self._pos[first] = tokens[0], start
            self._seq[first], self._wanted[first] = seq, outputs
        else:
            self._token[first:last] = tokens
            self._pos[first:last] = np.arange(start, start + len(tokens), dtype=np.int32)
            self._seq[first:last] = seq
            self._wanted[first:last] = 0
            self._wanted[last - outputs : last] = 1
        self.n_tokens = last
        return last - 1

    def decode(self) -> int:
        """Run the batch and empty it: 0 is success, 1 no room in the KV cache, 2 aborted, below 0 failed."""
        n_tokens, self.n_tokens = self.n_tokens, 0
        self._batch.n_tokens = n_tokens
        self._use(self._pace.begin())
        code = int(native.llama_decode(self._handle, self._batch))
        if code == 0:
            self._pace.end(n_tokens)
        return code

    def _use(self, n_threads: int) -> None:
        if n_threads != self._n_threads:
            native.llama_set_n_threads(self._handle, n_threads, n_threads)
            self._n_threads = n_threads

    def failure(self, code: int) -> EngineError:
        """What a code of `decode` other than success means."""
        if code == _NO_MEMORY:
            remedy = "Free memory, or use a smaller n_ctx or a smaller model"
            return OutOfMemory("llama.cpp found no memory to compute in", remedy=remedy)
        return EngineError("llama.cpp could not decode", why=f"its error code is {code}")

    def logits(self, row: int) -> "NDArray[np.float32]":
        """llama.cpp's own buffer with the raw logits of ``row``, valid until the next decode."""
        return self._view(logits_address(self._handle, row), self._n_vocab)

    def state(self, row: int) -> "NDArray[np.float32]":
        """The last layer's hidden state of ``row``; needs `set_states` before the decode."""
        return self._view(embedding_address(self._handle, row), self._n_embd)

    def _view(self, address: int | None, size: int) -> "NDArray[np.float32]":
        if address is None:
            raise EngineError("llama.cpp gave no output for a token", remedy="Open the model again")
        view = self._views.get(address)
        if view is None or view.size != size:
            if len(self._views) > 4 * MAX_OUTPUTS:  # the buffer has moved
                self._views.clear()
            view = np.ctypeslib.as_array((ctypes.c_float * size).from_address(address))
            self._views[address] = view
        return view

    def set_states(self, *, on: bool) -> None:
        """With it every token of a batch is an output: keep batches within MAX_OUTPUTS."""
        if on != self._states:
            native.llama_set_embeddings(self._handle, on)
            self._states = on

    # the KV cache

    def forget(self, seq: int, start: int = 0) -> bool:
        """Remove the sequence's cells from position ``start``; False if only the whole can be removed."""
        return bool(native.llama_memory_seq_rm(self._memory, seq, start if start > 0 else -1, -1))

    def share(self, source: int, target: int, end: int) -> None:
        """Give ``target`` the first ``end`` cells of ``source``; nothing is copied."""
        native.llama_memory_seq_cp(self._memory, source, target, -1, end)

    def save(self, seq: int) -> bytearray:
        """All that the sequence holds, as llama.cpp writes it. Raises EngineError."""
        data = bytearray(native.llama_state_seq_get_size(self._handle, seq))
        size = native.llama_state_seq_get_data(self._handle, _bytes_of(data), len(data), seq)
        if not data or size != len(data):
            raise EngineError("llama.cpp could not give out a sequence")
        return data

    def load(self, seq: int, n_tokens: int, data: bytearray) -> bool:
        """Put ``n_tokens`` that `save` gave into the empty sequence; False when they do not fit."""
        size = native.llama_state_seq_set_data(self._handle, _bytes_of(data), len(data), seq)
        last = native.llama_memory_seq_pos_max(self._memory, seq)
        if size == len(data) and last == n_tokens - 1:
            return True
        self.forget(seq)
        return False

    # adapters

    def carry(self, adapter: str | None) -> None:
        """Compute with this adapter, or with the plain model, from the next decode on."""
        chosen = [] if adapter is None else [self._adapters[adapter]]
        handles = (native.llama_adapter_lora_p_ctypes * 1)(*chosen)
        scales = (ctypes.c_float * 1)(1.0)
        if native.llama_set_adapters_lora(self._handle, handles, len(chosen), scales) != 0:
            raise EngineError(f"llama.cpp does not take the adapter {adapter!r}")

    # control

    def abort(self) -> None:
        """Stop the running decode, and later ones, until `proceed`. Safe from any thread."""
        self._flag[0] = b"\x01"

    def proceed(self) -> None:
        """Let decodes run again."""
        self._flag[0] = b"\x00"

    def free(self) -> None:
        """Give the memory back; the context is unusable afterwards."""
        handle, self._handle, self._memory = self._handle, None, None
        if handle is not None:
            native.llama_free(handle)


def _bytes_of(data: bytearray) -> "ctypes.Array[ctypes.c_uint8]":
    return (ctypes.c_uint8 * len(data)).from_buffer(data)


def _open(
    model: Model,
    n_ctx: int,
    n_seq: int,
    n_threads: int,
    kv_type: KvType,
    n_ubatch: int,
    *,
    flash_attn: bool | None,
    watch: Watch | None,
) -> int:
    params = native.llama_context_default_params()
    params.n_ctx = n_ctx
    params.n_batch = N_BATCH
    params.n_ubatch = min(n_ubatch, N_BATCH)
    params.n_seq_max = n_seq
    params.n_outputs_max = MAX_OUTPUTS
    params.n_outputs_max_per_seq = MAX_OUTPUTS
    params.n_threads = params.n_threads_batch = n_threads
    if flash_attn is not None:
        params.flash_attn_type = int(flash_attn)
    if kv_type == "q8_0":
        params.type_k = params.type_v = native.GGML_TYPE_Q8_0
        params.flash_attn_type = native.LLAMA_FLASH_ATTN_TYPE_ENABLED  # quantized values need it
    params.pooling_type = native.LLAMA_POOLING_TYPE_NONE
    params.kv_unified = True
    params.no_perf = True
    if watch is not None:
        params.cb_eval = watch.callback
    with complaints() as heard:
        handle = native.llama_init_from_model(model.handle, params)
    if handle is None:
        size = n_ctx * model.kv_bytes(kv_type) / 2**20
        raise refusal(f"llama.cpp cannot make a context of {n_ctx} tokens ({size:.0f} MiB)", heard)
    return int(handle)
