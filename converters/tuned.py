"""A source whose matrices were given new values by calibration; everything else is the source's own."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgeai.converters.blocks import Blocks
from edgeai.converters.decoder import Decoder, Floats, Matrix, Source, TokenizerData

__all__ = ["Packed4", "Tuned"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed4:
    """A matrix that is already in four-bit blocks. ``kind`` is Q4_0 (symmetric), Q4_1 or U4 (zero points)."""

    blocks: Blocks
    kind: str

    @property
    def shape(self) -> tuple[int, int]:
        """Output features, input features."""
        rows, n_blocks, size = self.blocks.codes.shape
        return rows, n_blocks * size

    def rows(self, start: int, stop: int) -> "Blocks | Floats":
        """Rows ``start`` to ``stop``."""
        part, whole = slice(start, stop), self.blocks
        return Blocks(
            codes=whole.codes[part],
            scale=whole.scale[part],
            offset=whole.offset[part],
            bits=whole.bits,
            zero=whole.zero,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """A `Source`. ``matrices`` and ``vectors`` replace those of ``source``, by role and layer."""

    source: Source
    matrices: dict[tuple[str, int | None], Matrix] = field(default_factory=dict)
    vectors: dict[tuple[str, int | None], Floats] = field(default_factory=dict)

    @property
    def decoder(self) -> Decoder:
        """The hyper-parameters."""
        return self.source.decoder

    @property
    def provenance(self) -> Mapping[str, str | int | Mapping[str, int]]:
        """Where the weights come from."""
        return self.source.provenance

    @property
    def n_parameters(self) -> int:
        """Weights in all."""
        return self.source.n_parameters

    def matrix(self, role: str, layer: int | None = None) -> Matrix | None:
        """The new matrix, or the source's."""
        return self.matrices.get((role, layer)) or self.source.matrix(role, layer)

    def vector(self, role: str, layer: int | None = None) -> Floats | None:
        """The new vector, or the source's."""
        found = self.vectors.get((role, layer))
        return self.source.vector(role, layer) if found is None else found

    def tokenizer(self) -> TokenizerData:
        """The source's own."""
        return self.source.tokenizer()
