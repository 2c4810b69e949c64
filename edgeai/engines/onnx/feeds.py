"""The inputs of one kind of run: arrays that stay bound, and are told which tokens come next."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeai.engines.onnx.session import Binding, value

__all__ = ["Feeds"]


class Feeds:
    """Binds the inputs ``types`` for ``n`` tokens of each of ``batch`` sequences.

    ``wanted`` are all of their outputs, or none.
    """

    def __init__(
        self, binding: Binding, types: Mapping[str, type[np.generic]], batch: int, n: int, *, wanted: bool
    ) -> None:
        shapes = {
            "input_ids": (batch, n),
            "position_ids": (batch, n),
            "seqlens_k": (batch,),
            "total_sequence_length": (),
            "logits_index": (batch * n if wanted else 0,),
            "use_cache_branch": (1,),
        }
        arrays: dict[str, np.ndarray[Any, Any]] = {
            name: np.zeros(shapes[name], types[name]) for name in types if name in shapes
        }
        for name, array in arrays.items():
            binding.input(name, value(array))
        if "logits_index" in arrays:
            arrays["logits_index"][:] = np.arange(len(arrays["logits_index"]))
        if "use_cache_branch" in arrays:
            arrays["use_cache_branch"][:] = True
        self._binding, self._mask_type = binding, types.get("attention_mask")
        self._ids, self._positions = arrays["input_ids"], arrays.get("position_ids")
        self._before, self._total = arrays.get("seqlens_k"), arrays.get("total_sequence_length")

    def fill(self, row: int, tokens: Sequence[int], start: int) -> None:
        """Say which tokens of a sequence come next, from position ``start``."""
        self._ids[row] = tokens
        if self._positions is not None:
            self._positions[row] = np.arange(start, start + len(tokens))
        if self._before is not None:
            self._before[row] = start + len(tokens) - 1

    def end(self, lengths: Sequence[int]) -> None:
        """Say how many tokens each sequence has then."""
        longest = max(lengths)
        if self._total is not None:
            self._total[()] = longest
        if self._mask_type is not None:
            mask = np.ones((len(lengths), longest), self._mask_type)
            for row, length in enumerate(lengths):
                mask[row, length:] = 0
            self._binding.input("attention_mask", value(mask))
