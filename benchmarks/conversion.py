"""What each number format costs, on the default model: KL from the source, the same favourite, size, speed.

``dithered`` is the default model with uniform noise inside each bin of its own number format: without it any
format that can hold the source's grid looks lossless. It ranks quantizers; it is no model to use. Reference:
the same weights as 32-bit floats in llama.cpp; eight windows of 512 tokens of the manual that comes with
Python, of topics that no quantizer sees. ``size`` is of all files. ``decode`` is on one thread.

    python -m benchmarks.conversion [plain|dithered] [FORMAT …]   # rows that are measured already are kept
"""

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from zlib import crc32

import numpy as np

from benchmarks.__main__ import store, where
from benchmarks.table import wide
from edgeai.converters.blocks import Blocks
from edgeai.converters.convert import open_source
from edgeai.converters.decoder import Decoder, Floats, Matrix, Source, TokenizerData
from edgeai.converters.divergence import compare, windows
from edgeai.converters.formats import FORMATS, Format
from edgeai.converters.gguf_writer import write_gguf
from edgeai.converters.hf_writer import write_folder
from edgeai.converters.make import MODEL, make
from edgeai.converters.origin import open_origin
from edgeai.converters.running import running
from edgeai.converters.texts import held_out_text
from edgeai.converters.timing import measure
from edgeai.models import catalog
from edgeai.models.store import pull

WORK = Path("build/conversion")
ROWS = WORK / "rows.json"
TOKENS, WINDOW = 4096, 512


@dataclass(frozen=True, slots=True)
class Dithered:
    """A matrix with noise inside each bin, the same noise each time."""

    inner: Matrix
    seed: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.inner.shape

    @property
    def kind(self) -> str:
        """As the source says."""
        return "F32"

    def rows(self, start: int, stop: int) -> Floats:
        """Floats, never blocks."""
        found = self.inner.rows(start, stop)
        if not isinstance(found, Blocks):
            return found
        noise = np.random.default_rng([self.seed, start]).random(found.codes.shape, np.float32) - 0.5
        values = found.codes * found.scale[..., None] + found.offset[..., None]
        return np.asarray(values + noise * found.scale[..., None], np.float32).reshape(len(values), -1)


class DitheredSource:
    """A source whose matrices are dithered."""

    def __init__(self, inner: Source) -> None:
        self._inner = inner

    @property
    def decoder(self) -> Decoder:
        """The same."""
        return self._inner.decoder

    @property
    def provenance(self) -> Mapping[str, str | int | Mapping[str, int]]:
        """The same."""
        return self._inner.provenance

    @property
    def n_parameters(self) -> int:
        """The same."""
        return self._inner.n_parameters

    def matrix(self, role: str, layer: int | None = None) -> Matrix | None:
        """With noise."""
        found = self._inner.matrix(role, layer)
        return None if found is None else Dithered(found, crc32(f"{role} {layer}".encode()))

    def vector(self, role: str, layer: int | None = None) -> Floats | None:
        """The same."""
        return self._inner.vector(role, layer)

    def tokenizer(self) -> TokenizerData:
        """The same."""
        return self._inner.tokenizer()


def prepare(variant: str) -> tuple[Path, Path]:
    """The Hugging Face folder, and its floats for llama.cpp."""
    folder, reference = WORK / variant, WORK / f"{variant}.gguf"
    if not reference.is_file():
        WORK.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        source = open_source(pull(catalog.default_name()).path)
        write_folder(DitheredSource(source) if variant == "dithered" else source, folder, "f32")
        write_gguf(open_source(folder), reference, "f32")
    return folder, reference


def package_of(variant: str, form: Format) -> Path:
    """Convert, unless an interrupted run has done so: what calibrates takes minutes."""
    package, draft = WORK / f"{variant}-{form.form}-{form.quant}", WORK / "draft"
    if not package.exists():
        shutil.rmtree(draft, ignore_errors=True)
        make(open_origin(prepare(variant)[0]), form, draft, {}, lambda done, total: None, "m")
        draft.rename(package)
    return package


def measure_row(variant: str, form: Format) -> dict[str, object]:
    """Convert, compare, time, and forget the package."""
    _, reference = prepare(variant)
    package = package_of(variant, form)
    target_path = package / MODEL if form.form == "gguf" else package
    with running(reference, n_ctx=WINDOW) as source, running(target_path, n_ctx=WINDOW) as target:
        ids = source.voice.ids(held_out_text()[: 8 * TOKENS])
        found = compare(source, target, windows(ids, [], length=WINDOW, count=TOKENS // WINDOW))
    speed = measure(target_path, n_ctx=512)
    size = sum(path.stat().st_size for path in package.iterdir())
    shutil.rmtree(package)
    return {"size": size, **asdict(found), **asdict(speed)}


def main(variants: list[str], wanted: list[str]) -> None:
    """Measure what is missing, and write the table of all that is known."""
    known: dict[str, dict[str, float]] = json.loads(ROWS.read_text()) if ROWS.is_file() else {}
    for variant in variants:
        for form in FORMATS:
            key = f"{variant} {form.form} {form.quant}"
            name = f"{form.form}-{form.quant}"
            if form.form != "hf" and key not in known and (name in wanted or not wanted):
                known[key] = measure_row(variant, form)  # type: ignore[assignment]  # all numbers
                ROWS.write_text(json.dumps(known, indent=1))
                print(key, known[key])
    columns = (
        *("weights", "format", "size MB", "KL", "KL p99", "same token", "perplexity (source)"),
        *("decode tok/s", "prefill tok/s", "memory MB"),
    )
    rows = [
        line(key, row) for key, row in sorted(known.items(), key=lambda kv: (kv[0].split()[0], kv[1]["size"]))
    ]
    store("conversion", f"## conversion\n\n{__doc__}\n{where()}\n\n{wide(columns, rows)}\n")


def line(key: str, row: Mapping[str, float]) -> tuple[str, ...]:
    """A row of the table."""
    variant, form, quant = key.split()
    return (
        variant,
        f"{form} {quant}",
        f"{row['size'] / 1e6:.0f}",
        f"{row['kl_mean']:.4f}",
        f"{row['kl_p99']:.3f}",
        f"{row['agreement']:.1%}",
        f"{row['perplexity']:.2f} ({row['source_perplexity']:.2f})",
        f"{row['decode_tps']:.0f}",
        f"{row['prefill_tps']:.0f}",
        f"{row['resident_bytes'] / 1e6:.0f}",
    )


if __name__ == "__main__":
    chosen = [name for name in sys.argv[1:] if name in ("plain", "dithered")]
    main(chosen or ["dithered", "plain"], [name for name in sys.argv[1:] if name not in chosen])
