"""What the memory plan predicts, against what a process of its own really holds: the growth of its resident
size (RSS) from before the engine is imported to after an answer to a prompt that fills the context, and an
embedding. The default model in three formats on each of two engines, with two contexts, and the same as an
embedding model that writes nothing; and the encoder whose package ``EDGEAI_ENCODER`` names, if it does
(all-MiniLM-L6-v2, as docs/converting.md makes it).
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.table import Row
from edgeai.devices.footprint import needs
from edgeai.models import store
from edgeai.models.shelf import InstalledModel
from edgeai.prepare import prepare

MODEL = "smollm2-135m-instruct"
GGUF = f"{MODEL}@llamacpp-q4_1"
CONTEXTS = (512, 2048)
WITHIN = 0.15
CHILD = """
import json, sys
from pathlib import Path
import psutil
import edgeai.devices.fitting, edgeai.load
from edgeai.models import store
from edgeai.types import Message, Request

def resident():
    return psutil.Process().memory_info().rss

model, n_ctx, writes = store.find(Path(sys.argv[1])), int(sys.argv[2]), sys.argv[3] == "writes"
before = resident()
wanted = edgeai.load.Wanted(n_ctx=n_ctx, allow_large=True, isolation="thread")
engine = edgeai.load.open_package(model, wanted)
words = "the quick brown fox " * (n_ctx // 4 - 24)
if writes:
    with engine.stream(Request(messages=(Message("user", words),), max_tokens=16)) as generation:
        list(generation)
engine.embed(["the quick brown fox" if writes else words])
print(json.dumps(resident() - before))
engine.close()
"""


def measure() -> list[Row]:
    """The rows of the table. Takes about two minutes on two quiet cores."""
    prepare(MODEL)
    with tempfile.TemporaryDirectory() as folder:
        made = formats(Path(folder))
        rows = [row(path, n_ctx) for path in made for n_ctx in CONTEXTS]
        rows += [row(path, CONTEXTS[0], writes=False) for path in (made[0], made[3])]
    if encoder := os.environ.get("EDGEAI_ENCODER"):
        package = Path(encoder)
        rows.append(row(package, store.find(package).manifest.context, writes=False))
    return rows


def formats(folder: Path) -> list[Path]:
    """The packages and files to measure; what the store does not have is made in ``folder``."""
    from edgeai.converters.onnx_package import export

    source = store.find(GGUF).path
    packages = [found.folder for found in store.installed() if found.id == f"{MODEL}@onnx-int8"]
    made = [package for package in packages if package] or [export(source, folder / "int8").folder]
    small = export(source, folder / "int4", quant="int4").folder
    half = export(source, folder / "fp16", quant="f16").folder
    files = [quantized(source, folder / f"{MODEL}-{name}.gguf", name) for name in ("q8_0", "f16")]
    return [source, *files, made[0], small, half]


def quantized(source: Path, target: Path, name: str) -> Path:
    """The GGUF file with weights of 8 or of 16 bits."""
    import llama_cpp

    from edgeai.engines.llamacpp import binding

    binding.start()  # quietly
    params = llama_cpp.llama_model_quantize_default_params()
    params.allow_requantize = True
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name.upper()}")
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), params):
        raise RuntimeError(f"llama.cpp cannot quantize {source}")
    return target


def row(path: Path, n_ctx: int, *, writes: bool = True) -> Row:
    """Predicted by measured, and whether that is near enough."""
    model = store.find(path)
    predicted, measured = needs(model).at(n_ctx).total, resident(model, n_ctx, writes=writes)
    ratio, use = predicted / measured, "" if writes else ", embeddings only"
    return Row(
        what=f"{model.manifest.engine} {_named(model)}, n_ctx={n_ctx}{use}: "
        f"{predicted / 1e6:.0f} MB predicted ÷ {measured / 1e6:.0f} MB measured",
        figure=f"{ratio:.2f}",
        aim=f"{1 - WITHIN:g} … {1 + WITHIN:g}",
        reached=abs(ratio - 1) <= WITHIN,
    )


def _named(model: InstalledModel) -> str:
    """The number format, and the name of what is not the default model."""
    own = model.manifest.quantization
    return own if model.manifest.head is None else f"{own} {model.manifest.name}"


def resident(model: InstalledModel, n_ctx: int, *, writes: bool) -> int:
    """Bytes that a child process holds more once the model is open and has been used."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(model.path), str(n_ctx), "writes" if writes else "embeds"],
        capture_output=True,
        text=True,
        check=True,
    )
    grown: int = json.loads(done.stdout)
    return grown
