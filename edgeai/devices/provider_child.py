"""The process in which an execution provider is tried, because one may crash, hang, or lie.

``python -m edgeai.devices.provider_child list '{json}'`` tells what ONNX Runtime offers; with ``try`` it runs
a model on a provider and, after it, on the CPU. The report is one line of JSON on the standard output; before
a try goes on to compile, which may take minutes, it says what it knows in a line of its own.
"""

import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any, Final

from edgeai.models.package import SAMPLES

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when the library is loaded

_SEQUENCE: Final = 32  # what a dimension that is not fixed becomes; 1 if it counts sequences
_QUIET: Final = 4
_SAME: Final = 0.9999  # the cosine of what was compiled with what was not
_registered: Final[set[str]] = set()
_DTYPES: Final[Mapping[str, str]] = {
    "tensor(bool)": "bool",
    "tensor(double)": "float64",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
}


def offered(plugins: Mapping[str, str]) -> dict[str, Any]:
    """What is built in, and per plugin's module its version of the provider or why it cannot be used."""
    import onnxruntime

    found: dict[str, str] = {}
    for module, provider in plugins.items():
        if importlib.util.find_spec(module) is None:
            continue
        try:
            _register(module, provider)
        except _faults() as error:
            found[module] = _first_line(error)
        else:
            found[module] = "" if _devices(provider) else "It finds no device"
    return {"built_in": onnxruntime.get_available_providers(), "plugins": found}


def tried(task: Mapping[str, Any], tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Nodes by provider, the likeness of the outputs with the CPU's, seconds; or why it is refused."""
    try:
        started = perf_counter()
        session, sizes = _session(task)
        loaded_s = perf_counter() - started
        nodes = _nodes(session)
        feeds = list(_feeds(session, sizes))
        started = perf_counter()
        # First here and then on the CPU: its results must not lie in memory that is handed out again.
        outputs = [session.run(None, feed) for feed in feeds]
        run_s = perf_counter() - started
    except _faults() as error:
        return {"refused": _first_line(error)}
    reference, _ = _session({**task, "provider": "CPUExecutionProvider", "plugin": None, "options": {}})
    expected = [reference.run(None, feed) for feed in feeds]
    cosine, least, difference = _likeness(outputs, expected)
    del session
    report = {
        "nodes": nodes,
        "cosine": cosine,
        "least_cosine": least,
        "max_difference": difference,
        "load_s": loaded_s,
        "run_s": run_s / len(feeds),
    }
    if not task.get("compile"):
        return report
    tell({**report, "unfinished": True})
    return {**report, "compiled_load_s": _compile(task, feeds[0], outputs[0])}


def _compile(task: Mapping[str, Any], feed: Any, expected: Any) -> float | None:  # noqa: ANN401  # numpy's own
    """Have the provider compile the model to a file; the seconds it then takes to load, if it still is right.

    That a file was written does not mean that it can be loaded: it is, run, and compared.
    """
    wanted = task["compile"]
    try:
        if "context" in wanted:
            os.makedirs(os.path.dirname(wanted["context"]), exist_ok=True)
            _session(task, context=wanted["context"])
            again = {**task, "model": wanted["context"]}
        else:
            os.makedirs(wanted["folder"], exist_ok=True)
            again = {**task, "options": {**task["options"], wanted["option"]: wanted["folder"]}}
            _session(again)
        started = perf_counter()
        session, _ = _session(again)
        loaded_s = perf_counter() - started
        _, cosine, _ = _likeness([session.run(None, feed)], [expected])
    except _faults():
        return None
    return loaded_s if cosine >= _SAME else None


def _session(task: Mapping[str, Any], context: str | None = None) -> tuple[Any, Mapping[str, int]]:
    """A session, and the sizes that dimensions without one got; it is compiled to ``context``, if given."""
    import onnxruntime as ort

    provider, plugin = task["provider"], task["plugin"]
    options = ort.SessionOptions()
    options.log_severity_level = _QUIET
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if context is not None:
        options.add_session_config_entry("ep.context_enable", "1")
        options.add_session_config_entry("ep.context_embed_mode", "1")
        options.add_session_config_entry("ep.context_file_path", context)
    sizes = _sizes(task["dimensions"])
    for name, size in sizes.items():  # NPUs want fixed shapes
        options.add_free_dimension_override_by_name(name, size)
    if plugin is None:
        chosen = [(provider, task["options"])]
        return ort.InferenceSession(task["model"], options, providers=chosen, enable_fallback=0), sizes
    _register(plugin, provider)
    devices = _devices(provider)
    if not devices:
        raise RuntimeError(f"{plugin} finds no device")
    options.add_provider_for_devices(devices, task["options"])
    return ort.InferenceSession(task["model"], options, enable_fallback=0), sizes


def _register(module: str, provider: str) -> None:
    import onnxruntime

    if module in _registered:
        return
    library = importlib.import_module(module).get_library_path()
    onnxruntime.register_execution_provider_library(provider, library)
    _registered.add(module)


def _devices(provider: str) -> list[Any]:
    """Its real devices: a library registered as ``.virtual`` makes up some, which cannot compute."""
    import onnxruntime

    found = [device for device in onnxruntime.get_ep_devices() if device.ep_name == provider]
    return [device for device in found if dict(device.device.metadata).get("is_virtual") != "1"]


def _nodes(session: Any) -> dict[str, int]:  # noqa: ANN401  # an object of the untyped library
    counts: dict[str, int] = {}
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] = counts.get(part.ep_name, 0) + len(part.get_nodes())
    return counts


def _sizes(dimensions: Sequence[str]) -> dict[str, int]:
    return {name: 1 if "batch" in name.lower() else _SEQUENCE for name in dimensions}


def _feeds(session: Any, sizes: Mapping[str, int]) -> Iterator[dict[str, Any]]:  # noqa: ANN401  # as above
    """Two different inputs, the same every time: an output that does not depend on them shows.

    They are the graph's own samples, if it has some: numbers that are no text may be far from any.
    """
    import numpy as np

    samples = json.loads(session.get_modelmeta().custom_metadata_map.get(SAMPLES, "[]"))
    if len(samples) > 1:
        kinds = {port.name: np.dtype(_DTYPES[port.type]) for port in session.get_inputs()}
        yield from ({name: np.array(row[name], kind) for name, kind in kinds.items()} for row in samples)
        return
    for seed in (1, 2):
        random = np.random.default_rng(seed)
        feed: dict[str, Any] = {}
        for port in session.get_inputs():
            shape = [dim if isinstance(dim, int) else sizes.get(dim, 1) for dim in port.shape]
            feed[port.name] = _values(port.name, shape, np.dtype(_DTYPES[port.type]), random)
        yield feed


def _values(name: str, shape: Sequence[int], dtype: Any, random: Any) -> Any:  # noqa: ANN401  # numpy's own
    """Numbers that the input may have: tokens that every vocabulary has, a mask of whole texts."""
    import numpy as np

    if dtype.kind == "f":
        return random.standard_normal(shape).astype(dtype)
    if name == "attention_mask":
        mask = np.ones(shape, dtype)
        mask[..., random.integers(shape[-1] // 2, shape[-1] + 1) :] = 0  # the end is padding
        return mask
    return random.integers(0, 100 if name == "input_ids" else 2, shape).astype(dtype)


def _likeness(outputs: Sequence[Any], expected: Sequence[Any]) -> tuple[float, float, float]:
    """The cosine (the mean of all outputs, the least of any) and the largest difference.

    What is no number is quite unlike. Of means for each input, the smallest counts.
    """
    import numpy as np

    mean, least, difference = 1.0, 1.0, 0.0
    for got, wanted in zip(outputs, expected, strict=True):
        cosines = []
        for one, other in zip(got, wanted, strict=True):
            a, b = np.ravel(one).astype("float64"), np.ravel(other).astype("float64")
            if a.shape != b.shape or not np.isfinite(a).all():
                return 0.0, 0.0, float("inf")
            norm = float(np.linalg.norm(a) * np.linalg.norm(b))
            cosines.append(float(a @ b) / norm if norm else float(np.array_equal(a, b)))
            difference = max(difference, float(np.abs(a - b).max(initial=0.0)))
        mean, least = min(mean, sum(cosines) / len(cosines)), min(least, *cosines)
    return mean, least, difference


def _faults() -> "tuple[type[Exception], ...]":
    """What a refusal may be: ONNX Runtime's own errors have no base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as native

    kinds = vars(native).values()
    own = (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Exception))
    return (*own, RuntimeError, ValueError, OSError, ImportError, AttributeError)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:400]


def main(arguments: Sequence[str]) -> None:
    """Do what the arguments say, and report."""
    report = os.dup(1)
    os.dup2(2, 1)  # native libraries print what they like
    what, task = arguments[0], json.loads(arguments[1])

    def tell(found: Mapping[str, Any]) -> None:
        os.write(report, (json.dumps(found) + "\n").encode())

    tell(offered(task) if what == "list" else tried(task, tell))


if __name__ == "__main__":
    main(sys.argv[1:])
