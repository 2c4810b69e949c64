"""The only door to ONNX Runtime, opened quietly: sessions, values, runs, and what its errors mean."""

import ctypes
import importlib
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgeai.engines import DevicePlan, Offload
from edgeai.errors import (
    EngineError,
    EngineLoadFailed,
    MissingExtra,
    ModelCorrupt,
    ModelUnsupported,
    OutOfMemory,
)

try:
    import onnxruntime
    from onnxruntime import __version__ as VERSION  # it is one
    from onnxruntime.capi import onnxruntime_pybind11_state as native
except ImportError as error:
    raise MissingExtra("onnxruntime is not installed", extra="onnx", why=str(error)) from error

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["VERSION", "Binding", "Port", "Session", "Stop", "give_back", "value"]

_FATAL: Final = 4
_SPIN_US: Final = 20
_CPU: Final = ["CPUExecutionProvider"]
_ABORTED: Final = "terminate flag"
_MEMORY_WORDS: Final = ("bad_alloc", "failed to allocate", "out of memory", "bad allocation")
_UNSUPPORTED_WORDS: Final = (
    "is not a registered function/op",
    "no op registered",
    "could not find an implementation",
    "no schema registered",
    "unsupported model ir version",
    "is under development",
    "not been implemented",
)
_CORRUPT_WORDS: Final = ("invalid model", "shapeinferenceerror", "type error", "typeinferenceerror")
_CORRUPT: Final = (native.InvalidProtobuf, native.InvalidGraph, native.NoSuchFile, UnicodeDecodeError)
_FAULTS: Final = (
    native.EPFail,
    native.EngineError,
    native.Fail,
    native.InvalidArgument,
    native.InvalidGraph,
    native.InvalidProtobuf,
    native.ModelLoaded,
    native.NoModel,
    native.NoSuchFile,
    native.NotImplemented,
    native.RuntimeException,
    RuntimeError,
    MemoryError,
    UnicodeDecodeError,  # from a message that quotes a broken file
)
_KEEP_PACKED: Final = {
    "session.save_external_prepacked_constant_initializers": "1",
    "session.optimized_model_external_initializers_file_name": "packed.data",
    "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
}
_DTYPES: Final[Mapping[str, type[np.generic]]] = {
    "tensor(bool)": np.bool_,
    "tensor(double)": np.float64,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """An input or output. ``dtype`` is None for what numpy does not have, a dimension None if not fixed."""

    name: str
    dtype: type[np.generic] | None
    shape: tuple[int | None, ...]


class Stop:
    """Ends the runs it is given to, from any thread."""

    def __init__(self) -> None:
        self._options = _quiet_run()
        self._partly = _quiet_run()
        self._partly.only_execute_path_to_fetches = True

    def stop(self) -> None:
        """End running and later runs, until `proceed`."""
        self._options.terminate = self._partly.terminate = True

    def proceed(self) -> None:
        """Let runs go on again."""
        self._options.terminate = self._partly.terminate = False

    def options(self, *, partly: bool) -> Any:  # noqa: ANN401  # an object of the untyped library
        """ONNX Runtime's own; ``partly``: only compute what is bound as an output."""
        return self._partly if partly else self._options


class Binding:
    """Where one kind of run finds its inputs and leaves its outputs; what is bound stays bound."""

    def __init__(self, session: "Session") -> None:
        self._native = session.native.io_binding()
        self._run = session.native.run_with_iobinding
        self._kept: dict[str, object] = {}

    def input(self, name: str, bound: Any) -> None:  # noqa: ANN401  # an OrtValue of the untyped library
        """Read the input from the value."""
        self._kept[name] = bound
        self._native.bind_ortvalue_input(name, bound)

    def output(self, name: str, bound: Any) -> None:  # noqa: ANN401  # as above
        """Leave the output in the value."""
        self._kept[name] = bound
        self._native.bind_ortvalue_output(name, bound)

    def new_output(self, name: str) -> None:
        """Leave the output in memory that ONNX Runtime makes, see `outputs`."""
        self._native.bind_output(name, "cpu")

    def outputs(self) -> Sequence[Any]:
        """The values of all outputs, in the order in which they were bound."""
        values: Sequence[Any] = self._native.get_outputs()
        return values

    def run(self, stop: Stop, *, partly: bool = False) -> bool:
        """Run the model; False if it was stopped. Raises EngineError's leaves."""
        try:
            self._run(self._native, stop.options(partly=partly))
        except _FAULTS as error:
            if _ABORTED in str(error):
                return False
            raise _failure(error) from error
        return True


class Session:
    """A loaded model, on the processor if no other device is named.

    ``keep_packed``: where to write the graph with its weights as they are packed, in a file beside it.
    Raises ModelCorrupt, ModelUnsupported, EngineLoadFailed or OutOfMemory.
    """

    def __init__(
        self, path: Path, plan: DevicePlan, offload: Offload | None = None, *, keep_packed: Path | None = None
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = plan.n_threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 1 if plan.verbose else _FATAL
        # Threads that sleep between two operators cost 60 % of decode speed, threads that spin for long take
        # the cores of whoever else runs (a token in 9 ms becomes 35 beside two busy processes). So they spin
        # just as long as the next operator usually takes to come, and never between two runs.
        spin_us = _SPIN_US if plan.spin_us is None else plan.spin_us
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin_us > 0)))
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(spin_us))
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # Packed for the processor by default: without that, MatMulNBits is 20 times slower.
        options.add_session_config_entry("session.disable_prepacking", str(int(not plan.prepack)))
        if offload is not None:
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if keep_packed is not None:
            options.optimized_model_filepath = str(keep_packed)
            for name, entry in _KEEP_PACKED.items():
                options.add_session_config_entry(name, entry)
        with _LOADING:
            try:
                providers = _CPU if offload is None else _providers(offload, options)
                self.native: Any = onnxruntime.InferenceSession(
                    path, options, providers=providers, enable_fallback=0
                )
                inputs, outputs = self.native.get_inputs(), self.native.get_outputs()
                self.inputs = {port.name: port for port in map(_port, inputs)}
                self.outputs = {port.name: port for port in map(_port, outputs)}
            except _FAULTS as error:
                raise _refusal(path.name, error) from error
        if offload is not None and (nodes := self.nodes) and offload.native not in nodes:
            why = "It takes no node of the graph, and the CPU would compute"
            raise EngineLoadFailed(f"{path.name} does not run on {offload.provider}", why=why)

    def new_binding(self) -> Binding:
        """A binding with nothing bound."""
        return Binding(self)

    @property
    def nodes(self) -> dict[str, int]:
        """How many of the graph's nodes each provider took, by ONNX Runtime's names; of an offload only."""
        counts: dict[str, int] = {}
        for part in self.native.get_provider_graph_assignment_info():
            counts[part.ep_name] = counts.get(part.ep_name, 0) + len(part.get_nodes())
        return counts

    def run(self, feeds: "Mapping[str, NDArray[Any]]", outputs: Sequence[str]) -> "list[NDArray[Any]]":
        """The named outputs, once. Raises EngineError's leaves."""
        try:
            found: list[NDArray[Any]] = self.native.run(outputs, feeds)
        except _FAULTS as error:
            raise _failure(error) from error
        return found


_LOADING = threading.Lock()
"""One model is loaded at a time: loading takes twice its memory for a moment."""


def _providers(offload: Offload, options: Any) -> list[Any] | None:  # noqa: ANN401  # an untyped library
    """What a session is to be told; a plugin's devices are named in the options."""
    if offload.plugin is None:
        if offload.native not in onnxruntime.get_available_providers():  # it would be the CPU, with a warning
            raise EngineLoadFailed(f"onnxruntime has no {offload.native}", remedy="See edgeai doctor")
        own = [] if offload.native in _CPU else _CPU
        return [(offload.native, dict(offload.options)), *own]
    try:
        library = importlib.import_module(offload.plugin).get_library_path()
    except (ImportError, OSError) as error:
        raise EngineLoadFailed(f"{offload.plugin} cannot be imported", why=str(error)) from error
    if offload.plugin not in _registered:
        onnxruntime.register_execution_provider_library(offload.native, library)
        _registered.add(offload.plugin)
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == offload.native]
    real = [device for device in devices if dict(device.device.metadata).get("is_virtual") != "1"]
    if not real:
        raise EngineLoadFailed(f"{offload.plugin} finds no device", remedy="See edgeai doctor")
    options.add_provider_for_devices(real, dict(offload.options))
    return None


_registered: Final[set[str]] = set()


def value(array: "NDArray[Any]") -> Any:  # noqa: ANN401  # an OrtValue of the untyped library
    """The array as ONNX Runtime sees it; the memory is shared, and must outlive the value."""
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def give_back() -> None:
    """Let the C library return to the system what ONNX Runtime has freed; glibc keeps it otherwise."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # not in every C library
        if trim is not None:
            trim(0)


def _quiet_run() -> Any:  # noqa: ANN401  # as above
    options = onnxruntime.RunOptions()
    options.log_severity_level = _FATAL
    return options


def _port(found: Any) -> Port:  # noqa: ANN401  # as above
    shape = tuple(dim if isinstance(dim, int) else None for dim in found.shape)
    return Port(name=found.name, dtype=_DTYPES.get(found.type), shape=shape)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:400]


def _failure(error: BaseException) -> EngineError:
    why = _first_line(error)
    if isinstance(error, MemoryError) or any(word in why.lower() for word in _MEMORY_WORDS):
        return OutOfMemory("ONNX Runtime needs more memory", why=why, remedy="Use a smaller context")
    return EngineError("ONNX Runtime could not decode", why=why)


def _refusal(name: str, error: BaseException) -> EngineError | ModelCorrupt | ModelUnsupported:
    """The typed error for a model that is not loaded, with ONNX Runtime's own words as the reason."""
    what, why = f"ONNX Runtime cannot load {name}", _first_line(error)
    words = why.lower()
    if isinstance(error, MemoryError) or any(word in words for word in _MEMORY_WORDS):
        return OutOfMemory(what, why=why, remedy="Use a smaller model")
    if isinstance(error, native.NotImplemented) or any(word in words for word in _UNSUPPORTED_WORDS):
        return ModelUnsupported(what, why=why, remedy="Use another model, or a newer onnxruntime")
    damaged = isinstance(error, _CORRUPT)
    if damaged or any(word in words for word in _CORRUPT_WORDS):
        return ModelCorrupt(what, why=why, remedy="Get the model again")
    return EngineLoadFailed(what, why=why, remedy="Verify the files, or use another model")
