"""The devices that the installed llama.cpp offers, read from its own list."""

import ctypes
from dataclasses import dataclass
from typing import Any, Final, Literal

from edgeai.engines.llamacpp.binding import ggml, start
from edgeai.errors import DeviceUnavailable

__all__ = ["Device", "devices", "selection"]

_KINDS: Final[tuple[Literal["cpu", "gpu", "npu"], ...]] = ("cpu", "gpu", "gpu", "npu")
"""As ggml numbers them: processor, graphics card, integrated graphics, accelerator."""

_INTEGRATED: Final = 2
_APPLE: Final = ("Metal", "MTL")


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device by ggml's ``name`` ("CUDA0"); ``backend`` is that of the part of llama.cpp that drives it.

    ``free_bytes`` of its memory can be had now; 0 where the driver does not say. ``shared``: that is the
    machine's memory, and none of its own.
    """

    name: str
    description: str
    backend: str
    kind: Literal["cpu", "gpu", "npu"]
    memory_bytes: int
    free_bytes: int = 0
    shared: bool = False


def devices() -> tuple[Device, ...]:
    """All of them, in llama.cpp's order. Raises EngineLoadFailed or MissingExtra on import."""
    start()
    count = ggml("ggml_backend_dev_count", ctypes.c_size_t)()
    get = ggml("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    return tuple(_device(get(number)) for number in range(count))


def selection(names: "tuple[str, ...]") -> Any:  # noqa: ANN401  # an array of ctypes
    """The devices of these names as llama.cpp takes them; empty: none beside the processor.

    Raises DeviceUnavailable for one that is not there (any more).
    """
    by_name = ggml("ggml_backend_dev_by_name", ctypes.c_void_p, ctypes.c_char_p)
    handles = [by_name(name.encode()) for name in names]
    if None in handles:
        missing = names[handles.index(None)]
        raise DeviceUnavailable(
            f"llama.cpp has no device {missing}", remedy="Open the model again, or use another device"
        )
    return (ctypes.c_void_p * (len(names) + 1))(*handles, None)


def _device(handle: int) -> Device:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    memory = ggml("ggml_backend_dev_memory", None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    memory(handle, ctypes.addressof(free), ctypes.addressof(total))
    kind = ggml("ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)(handle)
    registry = ggml("ggml_backend_dev_backend_reg", ctypes.c_void_p, ctypes.c_void_p)(handle)
    return Device(
        name=_text("ggml_backend_dev_name", handle),
        description=_text("ggml_backend_dev_description", handle),
        backend=_text("ggml_backend_reg_name", registry),
        kind=_KINDS[kind] if kind < len(_KINDS) else "npu",
        memory_bytes=total.value,
        free_bytes=free.value,
        shared=kind == _INTEGRATED or _text("ggml_backend_reg_name", registry) in _APPLE,
    )


def _text(function: str, handle: int) -> str:
    found = ggml(function, ctypes.c_char_p, ctypes.c_void_p)(handle)
    return (found or b"").decode("utf-8", "replace")
