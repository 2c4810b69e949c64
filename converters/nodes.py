"""A growing list of ONNX nodes."""

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from onnx import helper

from edgeai.converters.weights_file import WeightsFile

_MICROSOFT = {
    "FastGelu",
    "FusedMatMul",
    "GatherBlockQuantized",
    "GroupQueryAttention",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "QuickGelu",
    "SkipSimplifiedLayerNormalization",
}


class Nodes:
    """Appends nodes whose first output names them."""

    def __init__(self, weights: WeightsFile) -> None:
        self.made: list[onnx.NodeProto] = []
        self.weights = weights

    def add(
        self,
        op: str,
        inputs: Sequence[str],
        output: str,
        attributes: Mapping[str, Any] | None = None,
        *,
        more: Sequence[str] = (),
    ) -> str:
        """Append a node and return the name of its first output; ``more`` are its other outputs."""
        domain = "com.microsoft" if op in _MICROSOFT else ""
        node = helper.make_node(op, list(inputs), [output, *more], name=f"/{output}", domain=domain)
        for key, value in (attributes or {}).items():
            node.attribute.append(helper.make_attribute(key, value))
        self.made.append(node)
        return output
