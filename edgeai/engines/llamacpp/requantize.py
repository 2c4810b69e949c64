"""Rewrites a GGUF file in another number format, with llama.cpp's own quantizers."""

import ctypes
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeai.engines.llamacpp.binding import complaints, native, refusal, start

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["FORMATS", "requantize"]

FORMATS: Final[Mapping[str, int]] = {
    "f32": native.LLAMA_FTYPE_ALL_F32,
    "bf16": native.LLAMA_FTYPE_MOSTLY_BF16,
    "f16": native.LLAMA_FTYPE_MOSTLY_F16,
    "q8_0": native.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q6_k": native.LLAMA_FTYPE_MOSTLY_Q6_K,
    "q5_k_m": native.LLAMA_FTYPE_MOSTLY_Q5_K_M,
    "q4_k_m": native.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "q4_0": native.LLAMA_FTYPE_MOSTLY_Q4_0,
    "iq4_nl": native.LLAMA_FTYPE_MOSTLY_IQ4_NL,
}
"""The formats that can be written, by the name a package has for them."""

_BUFFER_BYTES: Final = 256 << 20
"""Rows kept in memory at once; llama.cpp's default is 8 GiB."""


def requantize(
    source: Path,
    target: Path,
    kind: str,
    *,
    n_threads: int,
    importance: "Mapping[str, NDArray[np.float32]] | None" = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write ``source`` to ``target`` in the format ``kind``; quantized tensors are read as floats first.

    ``importance`` has, by tensor, the mean square of each of its inputs. Where rows do not fill a block of
    256, llama.cpp takes the nearest format with blocks of 32. ``progress`` hears tensors begun and all.
    Raises EngineLoadFailed, ModelUnsupported or OutOfMemory; what was written by then is deleted.
    """
    start()
    params = native.llama_model_quantize_default_params()
    params.ftype, params.nthread = FORMATS[kind], n_threads
    params.allow_requantize = True
    params.max_buf_size = _BUFFER_BYTES
    kept = _imatrix(importance or {})
    if importance:
        params.imatrix = ctypes.cast(kept, type(params.imatrix))
    with complaints(progress) as heard:
        failed = native.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(params))
    if failed:
        target.unlink(missing_ok=True)
        raise refusal(f"llama.cpp cannot write {source.name} as {kind}", heard)


def _imatrix(importance: "Mapping[str, NDArray[np.float32]]") -> Any:  # noqa: ANN401  # an untyped array
    """llama.cpp's list, ended by an entry without a name; it holds on to what it points at."""
    rows = native.llama_model_imatrix_data * (len(importance) + 1)
    numbers = ctypes.POINTER(ctypes.c_float)
    return rows(
        *((name.encode(), v.ctypes.data_as(numbers), v.size) for name, v in sorted(importance.items()))
    )
