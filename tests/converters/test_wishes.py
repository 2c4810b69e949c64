"""The functions of `edgeai.converters` do what the command does."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edgeai import converters
from edgeai.cli import main
from edgeai.converters import Device, Gates, Stage, Trial, convert
from edgeai.converters.formats import format_of
from edgeai.converters.origin import open_origin
from edgeai.converters.toolchain import _provenance
from edgeai.errors import GateFailed
from edgeai.models.package import read_manifest
from edgeai.target import device_for
from tests.tiny_gguf import write_tiny_gguf

QUICK = Trial(tokens=64, window=64, speed=False)
LOOSE = Gates(max_kl=50.0, min_agreement=0.0)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tiny GGUF file."""
    return write_tiny_gguf(tmp_path / "tiny.gguf")


def files(folder: Path) -> dict[str, bytes]:
    """What a package is, but for its proof."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "proof.json"}


@pytest.mark.parametrize(
    ("args", "options"),
    [
        ((), {"to": "gguf"}),
        (("--name", "mine"), {"quant": "q8_0", "name": "mine"}),
        (("--npu", "a16w8"), {"to": "onnx", "quant": "int8", "npu": "a16w8"}),
        (("--for", "snapdragon-x-elite"), {"to": "onnx", "quant": "gptq"}),
    ],
)
def test_the_function_makes_what_the_command_makes(
    args: tuple[str, ...], options: dict[str, str], source: Path, tmp_path: Path
) -> None:
    """Byte for byte, for a device with an NPU, too."""
    device = device_for(args[1]) if "--for" in args else Device()
    test = replace(QUICK, speed=device.memory is not None)
    made = convert(source, tmp_path / "ours", device=device, test=test, gates=LOOSE, **options)  # type: ignore[arg-type]  # of several options
    assert made.package.manifest is not None
    assert (made.package.manifest.variants != {}) == (device.npu or "npu" in options)
    words = [word for name in ("to", "quant") if name in options for word in (f"--{name}", options[name])]
    loose = ("--max-kl", "50", "--min-agreement", "0", "--tokens", "64")
    with pytest.raises(SystemExit) as ended:
        main(["convert", str(source), *words, *args, *loose, "--out", str(tmp_path / "theirs")])
    assert not ended.value.code
    assert files(tmp_path / "ours") == files(tmp_path / "theirs")


def test_a_search_for_an_npu_gives_what_it_picks_its_graph(source: Path, tmp_path: Path) -> None:
    """The same package as the one format with its graph; what the graph adds to the size counts."""
    device = Device(name="with an npu", here=False, npu=True)
    told: list[Stage] = []
    made = convert(
        source, tmp_path / "best", device=device, to="onnx", quant="auto", test=QUICK, gates=LOOSE,
        tell=told.append,
    )  # fmt: skip
    assert made.found is not None
    assert made.package.manifest is not None
    quant = made.package.manifest.quantization
    convert(source, tmp_path / "one", to="onnx", quant=quant, npu="a16w8", test=QUICK, gates=LOOSE)
    assert files(tmp_path / "best") == files(tmp_path / "one")
    assert made.package.proof.gates[-2].name == "npu a16w8 cosine"
    assert made.package.proof.size == sum(map(len, files(tmp_path / "best").values()))
    steps = [(stage.done, stage.total) for stage in told if stage.what == "a16w8"]
    assert [done for done, _ in steps] == list(range(steps[-1][1] + 1))

    with pytest.raises(GateFailed, match="No format"):
        convert(
            source, tmp_path / "small", device=device, to="onnx", quant="auto", test=QUICK,
            gates=Gates(max_kl=50.0, min_agreement=0.0, max_size=made.package.proof.size - 1),
        )  # fmt: skip
    assert not (tmp_path / "small").exists()


def test_a_search_that_picks_no_graph_says_so(source: Path, tmp_path: Path) -> None:
    """A GGUF package has no place for a graph for NPUs."""
    device = Device(name="with an npu", here=False, npu=True)
    made = convert(source, tmp_path / "out", device=device, to="gguf", quant="auto", test=QUICK, gates=LOOSE)
    assert any("no graph for the NPU" in words for words in made.told)
    assert read_manifest(tmp_path / "out").variants == {}


def test_a_large_model_has_its_permission_in_the_recorded_command(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who makes the package again needs it; others do not have it."""
    origin, form = open_origin(source), format_of("gguf", "q8_0")
    assert "--allow-large" not in _provenance(origin, form, None)["command"]
    monkeypatch.setattr("edgeai.converters.fit.MAX_PARAMETERS", 1000)
    assert _provenance(origin, form, None)["command"].endswith("--quant q8_0 --allow-large")


def test_every_name_has_its_place() -> None:
    """What is loaded on first use is all that is promised."""
    assert sorted(converters._LAZY) == sorted(converters.__all__)
    for name in converters.__all__:
        found = getattr(converters, name)
        assert type(found).__name__ != "module", name
        assert name in dir(converters)
    with pytest.raises(AttributeError, match="nosuch"):
        _ = converters.nosuch


def test_importing_the_converters_loads_nothing_heavy() -> None:
    """No library before a name is used."""
    heavy = ["numpy", "onnx", "onnxruntime", "tokenizers", "llama_cpp", "torch", "httpx"]
    code = f"import sys, edgeai.converters; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
