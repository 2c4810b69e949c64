"""Where llama.cpp computes, seen at each node of its graphs: what it logs is what it was asked for."""

import ctypes
from typing import Final

from edgeai.engines.llamacpp.binding import ggml, native
from edgeai.engines.llamacpp.devices import selection

__all__ = ["Watch"]

_VIEWS: Final = frozenset({b"NONE", b"RESHAPE", b"VIEW", b"PERMUTE", b"TRANSPOSE"})
"""Nodes that compute nothing."""

_MATRIX: Final = frozenset({b"MUL_MAT", b"MUL_MAT_ID"})

_OUTPUTS: Final = ("output.weight", "token_embd.weight")


class _Tensor(ctypes.Structure):
    """The head of ggml's ``struct ggml_tensor``, as far as it is looked at."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
    )


class Watch:
    """Counts nodes and layers on ``gpus`` (ggml's names) while a context computes that was given it.

    A node counts as theirs when its result lies in their memory. A layer's are its products with weights;
    the one behind all others is a layer, too, as llama.cpp counts. Raises DeviceUnavailable.
    """

    def __init__(self, gpus: tuple[str, ...]) -> None:
        of_device = ggml("ggml_backend_dev_buffer_type", ctypes.c_void_p, ctypes.c_void_p)
        self._own = {of_device(handle) for handle in selection(gpus) if handle is not None}
        self._type_of = ggml("ggml_backend_buffer_get_type", ctypes.c_void_p, ctypes.c_void_p)
        self._operation = ggml("ggml_op_desc", ctypes.c_char_p, ctypes.c_void_p)
        self._name = ggml("ggml_get_name", ctypes.c_char_p, ctypes.c_void_p)
        self._layers: dict[str, bool] = {}
        self._there = self._all = 0
        self.callback = native.ggml_backend_sched_eval_callback(self._see)
        """For llama.cpp, which holds only its address."""

    @property
    def nodes(self) -> tuple[int, int]:
        """How many were computed on them, and in all."""
        return self._there, self._all

    @property
    def layers(self) -> tuple[int, int]:
        """How many were wholly theirs, and in all."""
        return sum(self._layers.values()), len(self._layers)

    def _see(self, address: int, ask: bool, _: object) -> bool:  # noqa: FBT001  # called by llama.cpp
        """It asks before each node whether its result is wanted: none is, so nothing is slower."""
        operation = self._operation(address)
        if ask and operation not in _VIEWS:
            tensor = _Tensor.from_address(address)
            there = bool(tensor.buffer) and self._type_of(tensor.buffer) in self._own
            self._there += there
            self._all += 1
            if operation in _MATRIX and (layer := self._layer(tensor.src[0])):
                self._layers[layer] = self._layers.get(layer, True) and there
        return False

    def _layer(self, weight: int | None) -> str | None:
        """Such as "blk.3", or "output" for the one behind them; None for what belongs to neither."""
        name = (self._name(weight) or b"").decode("utf-8", "replace") if weight else ""
        if name.startswith("blk."):
            return ".".join(name.split(".")[:2])
        return "output" if name in _OUTPUTS else None
