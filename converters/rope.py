"""Tables of the rotary embedding."""

import numpy as np

from edgeai.converters.decoder import Floats, Rope


def tables(rope: Rope, n_positions: int) -> tuple[Floats, Floats]:
    """Cosine and sine of shape (n_positions, rope.dim / 2)."""
    exponents = np.arange(0, rope.dim, 2, dtype=np.float64) / rope.dim
    frequencies = rope.scale / np.power(rope.base, exponents)
    if rope.factors is not None:
        frequencies /= np.asarray(rope.factors)
    angles = np.arange(n_positions, dtype=np.float64)[:, None] * frequencies
    return (
        (np.cos(angles) * rope.magnitude).astype(np.float32),
        (np.sin(angles) * rope.magnitude).astype(np.float32),
    )
