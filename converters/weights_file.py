"""Initializers of an ONNX graph: small ones inside the model, large ones in one external file."""

from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnx
from numpy.typing import NDArray

_INLINE = 1024  # bytes; shapes must be inside the model for shape inference, vectors may
_ALIGNMENT = 4096  # a page: the file is mapped


class WeightsFile:
    """Collects initializers; what is large goes straight to the file, so that memory stays low."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._location = path.name
        self.initializers: dict[str, onnx.TensorProto] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, name: str, values: NDArray[Any]) -> str:
        """Store an array under the name, once, and return the name."""
        if name not in self.initializers:
            values = np.ascontiguousarray(values)
            proto = self._inside(name, values) if values.nbytes <= _INLINE else self._outside(name, values)
            self.initializers[name] = proto
        return name

    def stream(self, name: str, shape: Sequence[int], parts: Iterable[NDArray[np.float32]]) -> str:
        """Store a large array of floats that comes some rows at a time."""
        proto = self._proto(name, np.dtype(np.float32), shape)
        for part in parts:
            np.ascontiguousarray(part, np.float32).tofile(self._file)
        self.initializers[name] = proto
        return name

    def reshaped(self, name: str, of: str, shape: Sequence[int]) -> str:
        """The same bytes under another name and shape: nothing is written twice."""
        proto = onnx.TensorProto()
        proto.CopyFrom(self.initializers[of])
        proto.name = name
        del proto.dims[:]
        proto.dims.extend(shape)
        self.initializers[name] = proto
        return name

    @staticmethod
    def _inside(name: str, values: NDArray[Any]) -> onnx.TensorProto:
        return onnx.numpy_helper.from_array(values, name)

    def _outside(self, name: str, values: NDArray[Any]) -> onnx.TensorProto:
        proto = self._proto(name, values.dtype, values.shape)
        values.tofile(self._file)
        return proto

    def _proto(self, name: str, dtype: np.dtype[Any], shape: Sequence[int]) -> onnx.TensorProto:
        """What says where in the file the array is, which is here and now."""
        self._file.write(bytes(-self._file.tell() % _ALIGNMENT))
        proto = onnx.TensorProto(name=name, data_location=onnx.TensorProto.EXTERNAL)
        proto.data_type = onnx.helper.np_dtype_to_tensor_dtype(dtype)
        proto.dims.extend(shape)
        length = prod(shape) * dtype.itemsize
        facts = {"location": self._location, "offset": self._file.tell(), "length": length}
        for key, value in facts.items():
            proto.external_data.add(key=key, value=str(value))
        return proto
