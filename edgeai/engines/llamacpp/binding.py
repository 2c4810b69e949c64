"""The only door to llama.cpp, opened quietly.

Everything the native library prints goes to the logger ``edgeai.llamacpp``: at DEBUG level, unless somebody
asked for `speak`. Error text is kept per thread, to explain a failed call.
"""

import atexit
import ctypes
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, cast

from edgeai.errors import EngineError, EngineLoadFailed, MissingExtra, ModelUnsupported, OutOfMemory

try:
    from llama_cpp import __version__ as VERSION  # it is one
    from llama_cpp import llama_cpp as native
    from llama_cpp._ctypes_extensions import load_shared_library
except ImportError as error:
    raise MissingExtra("llama-cpp-python is not installed", extra="llama", why=str(error)) from error
except (OSError, RuntimeError) as error:  # its shared library is missing or does not fit this machine
    raise EngineLoadFailed(
        "llama.cpp's shared library cannot be loaded",
        why=str(error),
        remedy="Reinstall it: pip install --force-reinstall llama-cpp-python",
    ) from error

__all__ = [
    "ABORT_FUNCTION",
    "VERSION",
    "complaints",
    "embedding_address",
    "ggml",
    "logits_address",
    "native",
    "refusal",
    "speak",
    "start",
]

_logger = logging.getLogger("edgeai.llamacpp")
# as in ggml.h; llama-cpp-python's own table is of an older version
_LEVELS: Final = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}
_ERROR: Final = 4
_COUNTED: Final = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")  # what llama.cpp's quantizer says before each tensor
_CONTINUED: Final = 5
_state = threading.local()
_lock = threading.Lock()
_started = False
_loud = False


def _hear(level: int, text: bytes | None, _: object) -> None:
    """llama.cpp's log callback; may be called from any thread.

    ctypes would swallow a Ctrl-C that arrives here: `complaints` raises it again.
    """
    try:
        _note(level, text)
    except KeyboardInterrupt:
        _state.interrupted = True


def _note(level: int, text: bytes | None) -> None:
    line = (text or b"").decode("utf-8", "replace").rstrip("\n")
    if level == _CONTINUED:
        level = getattr(_state, "level", 1)
    _state.level = level
    if not line.strip(" ."):
        return
    counted = _COUNTED.match(line)
    if counted and (count := getattr(_state, "count", None)) is not None:
        count(int(counted[1]), int(counted[2]))
    heard: list[str] | None = getattr(_state, "heard", None)
    if heard is not None and level == _ERROR:
        heard.append(line)
    # Not louder than DEBUG unless asked: Python prints warnings of unconfigured loggers on stderr.
    _logger.log(_LEVELS.get(level, logging.DEBUG) if _loud else logging.DEBUG, "%s", line)


_HEAR: Final = native.llama_log_callback(_hear)  # kept alive: llama.cpp holds only its address


def _libc() -> ctypes.CDLL:
    if sys.platform != "win32":
        return ctypes.CDLL(None)
    return ctypes.CDLL("ucrtbase.dll")


ABORT_FUNCTION: Final[Any] = ctypes.cast(_libc().strlen, native.ggml_abort_callback)
"""Asked by llama.cpp's compute threads whether to stop. It is C's ``strlen`` on a two-byte buffer (empty: 0,
go on; one character: 1, stop), because a Python function would have to wait for the interpreter's lock."""

_DEAF: Final[Any] = ctypes.cast(_libc().abs, native.llama_log_callback)  # ignores all but its first argument


def start() -> None:
    """Prepare the native library, once per process.

    ``GGML_BACKEND_PATH`` names the library of one more backend, as with llama.cpp's own programs.
    """
    global _started
    with _lock:
        if _started:
            return
        os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # a native abort must not start a debugger
        native.llama_log_set(_HEAR, None)
        linked = ggml("ggml_backend_reg_count", ctypes.c_size_t)()
        native.llama_backend_init()
        if linked and (path := os.environ.get("GGML_BACKEND_PATH")):  # otherwise that has loaded it
            ggml("ggml_backend_load", ctypes.c_void_p, ctypes.c_char_p)(os.fsencode(path))
        _close_at_exit()
        atexit.register(native.llama_log_set, _DEAF, None)  # nothing may call into a finished interpreter
        _started = True


def _close_at_exit() -> None:
    """llama-cpp-python opens two null devices when it is imported, and leaves them open."""
    opened = sys.modules.get("llama_cpp._utils")
    for name in ("outnull_file", "errnull_file"):
        if (file := getattr(opened, name, None)) is not None:
            atexit.register(file.close)


def speak() -> None:
    """Let llama.cpp's messages through at their own level, on stderr if logging is not configured."""
    global _loud
    _loud = True
    _logger.setLevel(logging.DEBUG)
    if not _logger.hasHandlers():
        _logger.addHandler(logging.StreamHandler())


@contextmanager
def complaints(count: Callable[[int, int], None] | None = None) -> Iterator[list[str]]:
    """Collect the error lines that llama.cpp writes on this thread meanwhile.

    ``count`` hears which tensor of how many a quantizer has come to.
    """
    _state.heard = heard = list[str]()
    _state.count = count
    _state.interrupted = False
    try:
        yield heard
    finally:
        _state.heard = _state.count = None
    if _state.interrupted:
        raise KeyboardInterrupt


def _row_function(name: str) -> Callable[[int | None, int], int | None]:
    """A getter ``(context, row) -> address``: our own view of it, as the shared one makes slow pointers."""
    function = native._lib[name]
    function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_int32], ctypes.c_void_p
    return cast("Callable[[int | None, int], int | None]", function)


logits_address: Final = _row_function("llama_get_logits_ith")
embedding_address: Final = _row_function("llama_get_embeddings_ith")


def ggml(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:  # noqa: ANN401  # types of ctypes
    """A function of the library below llama.cpp, typed: its list of devices is not in the bindings."""
    for library in ("ggml", "ggml-base"):
        function = getattr(load_shared_library(library, native._base_path), name, None)
        if function is not None:
            function.restype, function.argtypes = result, list(arguments)
            return cast("Callable[..., Any]", function)
    raise EngineLoadFailed(
        f"llama.cpp's shared library has no {name}", remedy="Reinstall it: pip install -U llama-cpp-python"
    )


_MEMORY_WORDS: Final = (
    "cannot allocate memory",
    "insufficient memory",
    "length_error",
    "failed to allocate",
    "unable to allocate",
    "out of memory",
    "bad_alloc",
    "alloc_buffer",
)
_UNSUPPORTED_WORDS: Final = (
    "unknown model architecture",
    "unknown pre-tokenizer",
    "unsupported",
    "unknown tokenizer",
)


def refusal(what: str, heard: list[str]) -> EngineError | ModelUnsupported:
    """The typed error for a failed native call, with llama.cpp's own words as the reason."""
    why = "; ".join(dict.fromkeys(heard)) or "llama.cpp gave no reason"
    words = why.lower()
    if any(word in words for word in _MEMORY_WORDS):
        return OutOfMemory(what, why=why, remedy="Free memory, or use a smaller n_ctx or a smaller model")
    if any(word in words for word in _UNSUPPORTED_WORDS):
        return ModelUnsupported(what, why=why, remedy="Use another model, or a newer llama-cpp-python")
    return EngineLoadFailed(what, why=why, remedy="Verify the file, or use another model")
