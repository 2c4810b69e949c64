"""What each number format costs, on the default model: KL from the source, the same favourite, size, speed.

``dithered`` is the default model with uniform noise inside each bin of its own number format: without it any
format that can hold the source's grid looks lossless. It ranks quantizers; it is no model to use. Reference:
the same weights as 32-bit floats in llama.cpp; eight windows of 512 tokens of the manual that comes with
Python, of topics that no quantizer sees. ``size`` is of all files. On the frontier of size, KL and decoding
speed is what no format of the same weights beats in one of them without losing in another; speeds that are
within a fifth of each other count as equal, as in ``edgeai convert --quant auto``. Speeds with a ``*`` were
measured while the machine had other work: they say little, and the frontier leaves them out.

    python -m benchmarks.conversion [plain|dithered] [FORMAT …]   # rows that are measured already are kept
    python -m benchmarks.conversion table                         # only writes the table of those rows
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from zlib import crc32

import numpy as np

from benchmarks.__main__ import store, where
from benchmarks.table import wide
from edgeai.converters.blocks import Blocks
from edgeai.converters.decoder import Decoder, Floats, Matrix, Source, TokenizerData
from edgeai.converters.divergence import compare, windows
from edgeai.converters.formats import FORMATS, Format
from edgeai.converters.gguf_writer import write_gguf
from edgeai.converters.hf_writer import write_folder
from edgeai.converters.make import MODEL, make
from edgeai.converters.onnx_package import open_source
from edgeai.converters.origin import open_origin
from edgeai.converters.points import Point, beats
from edgeai.converters.running import cores, running
from edgeai.converters.texts import held_out_text
from edgeai.converters.timing import TOLERATED, measure
from edgeai.models import catalog
from edgeai.models.store import pull

WORK = Path("build/conversion")
ROWS = Path(__file__).with_name("conversion_rows.json")
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
    busy = int(os.getloadavg()[0] > 1.5 * cores())
    return {"size": size, **asdict(found), **asdict(speed), "busy": busy}


def main(variants: list[str], wanted: list[str]) -> None:
    """Measure what is missing, and write the table of all that is known."""
    known: dict[str, dict[str, float]] = json.loads(ROWS.read_text()) if ROWS.is_file() else {}
    for variant in variants:
        for form in FORMATS:
            key = f"{variant} {form.form} {form.quant}"
            name = f"{form.form}-{form.quant}"
            if form.form != "hf" and key not in known and (name in wanted or not wanted):
                known[key] = measure_row(variant, form)  # type: ignore[assignment]  # all numbers
                ROWS.write_text(json.dumps(known, indent=1) + "\n", "utf-8")
                print(key, known[key])
    write(known)


def write(known: Mapping[str, Mapping[str, float]]) -> None:
    """Print the frontier, and put the table of all rows into RESULTS.md."""
    columns = (
        *("weights", "format", "size MB", "KL", "frontier", "KL p99", "same token", "perplexity (source)"),
        *("decode tok/s", "prefill tok/s", "load s", "memory MB"),
    )
    best = frontier(known)
    rows = {
        key: line(key, row, on_frontier=key in best)
        for key, row in sorted(known.items(), key=lambda kv: (kv[0].split()[0], kv[1]["size"]))
    }
    print(wide(columns, [row for key, row in rows.items() if key in best]))
    heads = ("weights", "measured elsewhere", "size MB", "KL", "same token", "ours, not larger", "size MB")
    aims = wide((*heads, "KL", "same token"), [*aimed(known)])
    section = (
        f"## conversion\n\n{__doc__}\n{where()}\n\n{wide(columns, [*rows.values()])}\n\n{_BESIDE}\n\n{aims}\n"
    )
    store("conversion", section)


def frontier(known: Mapping[str, Mapping[str, float]]) -> set[str]:
    """The rows that no other of the same weights beats: one as small, as near and as fast, and not equal."""
    return {
        key
        for key, row in known.items()
        if not any(
            beats(point(other), point(row))
            for name, other in known.items()
            if name != key and name.split()[0] == key.split()[0]
        )
    }


def point(row: Mapping[str, float]) -> Point:
    """As a search compares packages; disturbed speeds are not compared."""
    pace = None if disturbed(row) else row["decode_tps"]
    return Point(size=row["size"], kl=row["kl_mean"], pace=pace)


def disturbed(row: Mapping[str, float]) -> bool:
    """Whether its speeds were measured beside other work."""
    return bool(row.get("busy")) or (row.get("others") or 0.0) > TOLERATED


@dataclass(frozen=True, slots=True)
class Aim:
    """Another's package of the same weights: its engine, MB, KL, and the share of tokens that agree.

    ``formats`` are ours that it is compared with; none: all that are not larger.
    """

    variant: str
    name: str
    form: str
    size: float | None
    kl: float
    same: float
    formats: tuple[str, ...] = ()

    def is_met_by(self, key: str, row: Mapping[str, float]) -> bool:
        """Whether it is one of ours that may be put beside it."""
        variant, form, quant = key.split()
        small = self.size is None or row["size"] <= (self.size + 0.5) * 1e6
        return (variant, form) == (self.variant, self.form) and small and quant in (self.formats or (quant,))


AIMS = (
    Aim("dithered", "onnxruntime-genai k_quant_mixed", "onnx", 114, 0.184, 0.786),
    Aim("dithered", "ONNX int4 round-to-nearest, 8-bit head", "onnx", 216, 0.241, 0.750),
    Aim("dithered", "ONNX int8 dynamic, down_proj kept", "onnx", 331, 0.083, 0.835),
    Aim("dithered", "ONNX GPTQ of ONNX Runtime, corrected, 8-bit head", "onnx", 216, 0.131, 0.808),
    Aim(
        "dithered", "llmcompressor GPTQ, groups of 32, 32-bit head", "onnx", None, 0.077, 0.859, ("awq_gptq",)
    ),
    Aim("dithered", "llama.cpp Q4_K_M", "gguf", 105.5, 0.069, 0.865),
    Aim("dithered", "llama.cpp IQ4_NL", "gguf", 92.1, 0.214, 0.757),
    Aim("dithered", "llama.cpp Q4_0", "gguf", 91.9, 0.321, 0.718),
    Aim("plain", "llama.cpp Q4_K_M", "gguf", 105.5, 0.050, 0.883),
    Aim("plain", "llama.cpp Q8_0", "gguf", 144.8, 0.004, 0.966),
)
"""Those of llmcompressor were run in torch and never written as a package: all layers have four bits."""

_BESIDE = """\
Others' packages of the same model, measured once on another text, the dithered ones with other noise (so that
small differences say nothing), beside the nearest of ours for the same engine that is not larger.
llmcompressor's ran in torch and has no package; beside it is ours with all layers in four bits, and eight in
the head:"""


def aimed(known: Mapping[str, Mapping[str, float]]) -> Iterator[tuple[str, ...]]:
    """Each aim with the nearest of our packages for the same engine that is not larger."""
    for aim in AIMS:
        ours = {key: row for key, row in known.items() if aim.is_met_by(key, row)}
        best = min(ours, key=lambda key: ours[key]["kl_mean"], default=None)
        size = "" if aim.size is None else f"{aim.size:g}"
        yield (
            *(aim.variant, aim.name, size, f"{aim.kl:.3f}", f"{aim.same:.1%}"),
            *(("none", "", "", "") if best is None else _beside(best, ours[best])),
        )


def _beside(key: str, row: Mapping[str, float]) -> tuple[str, ...]:
    size = f"{row['size'] / 1e6:.0f}"
    return key.split(None, 1)[1], size, f"{row['kl_mean']:.4f}", f"{row['agreement']:.1%}"


def line(key: str, row: Mapping[str, float], *, on_frontier: bool) -> tuple[str, ...]:
    """A row of the table."""
    variant, form, quant = key.split()
    busy = "*" if disturbed(row) else ""
    return (
        variant,
        f"{form} {quant}",
        f"{row['size'] / 1e6:.0f}",
        f"{row['kl_mean']:.4f}",
        "yes" if on_frontier else "",
        f"{row['kl_p99']:.3f}",
        f"{row['agreement']:.1%}",
        f"{row['perplexity']:.2f} ({row['source_perplexity']:.2f})",
        *(_measured(row, name, "{:.0f}") + busy for name in ("decode_tps", "prefill_tps")),
        _measured(row, "load_s", "{:.2f}") + busy,
        _measured(row, "resident_bytes", "{:.0f}", 1e6),
    )


def _measured(row: Mapping[str, float], name: str, form: str, unit: float = 1.0) -> str:
    """Nothing where it was not measured: on a machine that was busy with other things."""
    return form.format(row[name] / unit) if name in row else ""


if __name__ == "__main__":
    chosen = [name for name in sys.argv[1:] if name in ("plain", "dithered")]
    if sys.argv[1:] == ["table"]:
        write(json.loads(ROWS.read_text("utf-8")))
    else:
        main(chosen or ["dithered", "plain"], [name for name in sys.argv[1:] if name not in chosen])
