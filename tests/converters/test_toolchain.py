"""What is converted is proved, and what is damaged is refused, with the reason."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from edgeai.converters import make as making
from edgeai.converters.divergence import compare
from edgeai.converters.encoder import Encoder
from edgeai.converters.fit import check_encoder_fits, estimate
from edgeai.converters.formats import Form, Format, format_of
from edgeai.converters.gates import Gates, check
from edgeai.converters.gguf_writer import write_gguf
from edgeai.converters.graph import Progress
from edgeai.converters.hf_writer import write_folder
from edgeai.converters.importance import importance
from edgeai.converters.onnx_package import open_source
from edgeai.converters.origin import open_origin
from edgeai.converters.proof import Proof, Trial, read_proof
from edgeai.converters.running import running
from edgeai.converters.stages import Stage
from edgeai.converters.texts import calibration_text, held_out_text
from edgeai.converters.timing import measure
from edgeai.converters.toolchain import convert
from edgeai.engines.llamacpp.requantize import requantize
from edgeai.errors import (
    ConfigError,
    DiskFull,
    EdgeError,
    GateFailed,
    ModelCorrupt,
    ModelNotFound,
    ModelTooLarge,
    ModelUnsupported,
    OutOfMemory,
)
from edgeai.models.importing import import_
from edgeai.models.package import Head, Manifest, read_manifest, write_manifest
from edgeai.models.shelf import find, models_dir
from edgeai.paths import cache_dir
from tests.converters.folders import CONFIGS, write_hf, write_safetensors
from tests.engines.onnx.test_encoder import write_encoder
from tests.tiny_gguf import write_tiny_gguf

Bytes = NDArray[np.uint8]
QUICK = Trial(tokens=96, window=96, speed=False)
LOOSE = Gates(max_kl=5.0, min_agreement=0.0)
IDS = [5, 40, 71, 12, 200, 9, 33, 150, 8, 99, 100, 101]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tiny GGUF file."""
    return write_tiny_gguf(tmp_path / "tiny.gguf")


def names(folder: Path) -> set[str]:
    """What is in a folder."""
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("kind", CONFIGS)
def test_both_engines_compute_the_same_from_a_folder(kind: str, tmp_path: Path) -> None:
    """The GGUF file in llama.cpp and the graph in ONNX Runtime, made by writers that share nothing."""
    folder = write_hf(tmp_path / "m", kind)
    write_gguf(open_source(folder), tmp_path / "m.gguf", "f32")
    from edgeai.converters.onnx_package import export

    export(folder, tmp_path / "graph", quant="f32")
    with running(tmp_path / "m.gguf", n_ctx=128) as one, running(tmp_path / "graph", n_ctx=128) as other:
        found = compare(one, other, [IDS])
    assert found.kl_max < 1e-4
    assert found.agreement == 1.0


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_folder_survives_the_way_through_gguf_and_back(kind: str, tmp_path: Path) -> None:
    """All tensors and hyper-parameters, bit for bit; bfloat16 too."""
    first = open_source(write_hf(tmp_path / "m", kind, dtype="BF16"))
    write_gguf(first, tmp_path / "m.gguf", "bf16")
    (tmp_path / "back").mkdir()
    write_folder(open_source(tmp_path / "m.gguf"), tmp_path / "back", "bf16", max_shard=60_000)
    second = open_source(tmp_path / "back")
    assert len(list((tmp_path / "back").glob("*.safetensors"))) > 1
    for role in ("q", "k", "v", "o", "gate", "up", "down"):
        ours, theirs = second.matrix(role, 1), first.matrix(role, 1)
        assert ours is not None
        assert theirs is not None
        np.testing.assert_array_equal(ours.rows(0, 32), theirs.rows(0, 32))
    for role in ("attn_norm", "q_bias", "q_norm"):
        ours_v, theirs_v = second.vector(role, 1), first.vector(role, 1)
        assert (ours_v is None) == (theirs_v is None)
        if ours_v is not None and theirs_v is not None:
            np.testing.assert_allclose(ours_v, theirs_v, atol=4e-3)
    one, other = first.decoder, second.decoder
    assert (one.n_heads, one.head_dim, one.n_ff, one.norm_eps) == (
        other.n_heads, other.head_dim, other.n_ff, other.norm_eps,
    )  # fmt: skip
    assert one.ropes[0].base == pytest.approx(other.ropes[0].base)
    assert one.ropes[0].factors == pytest.approx(other.ropes[0].factors)


@pytest.mark.parametrize(
    ("to", "quant"),
    [("gguf", "q8_0"), ("onnx", "int8"), ("onnx", "f16"), ("onnx", "int8_dynamic"), ("hf", "f32")],
)
def test_a_gguf_file_becomes_each_form(to: Form, quant: str, source: Path, tmp_path: Path) -> None:
    """With a proof against the source itself, and a manifest that says where it comes from."""
    made = convert(source, tmp_path / "out", to=to, quant=quant, test=QUICK, gates=Gates(min_agreement=0.8))
    assert made.proof.passed
    assert made.proof.divergence is not None
    assert made.proof.divergence.kl_mean < 0.01
    assert made.proof == read_proof(made.folder)
    if made.manifest is not None:
        assert made.manifest == read_manifest(tmp_path / "out") == find(tmp_path / "out").manifest
        assert made.manifest.licence == "apache-2.0"
        assert made.manifest.provenance["command"] == f"edgeai convert tiny.gguf --to {to} --quant {quant}"
    assert names(tmp_path) == {"out", "tiny.gguf", "edgeai-home"}


@pytest.mark.parametrize(("to", "quant"), [("gguf", "q4_k_m"), ("onnx", "int8")])
def test_a_folder_is_proved_by_the_other_engine(to: Form, quant: str, tmp_path: Path) -> None:
    """And its licence goes along, name and text."""
    folder = write_hf(tmp_path / "m", "qwen2", dtype="BF16")
    made = convert(folder, tmp_path / "out", to=to, quant=quant, test=QUICK, gates=LOOSE)
    assert ("ONNX Runtime" if to == "gguf" else "llama.cpp") in made.proof.reference
    assert made.manifest is not None
    assert made.manifest.licence == "mit"
    assert (tmp_path / "out" / "LICENSE").read_text() == "Permission is granted.\n"
    assert "LICENSE" in {file.path for file in made.manifest.files}


@pytest.mark.parametrize(
    ("to", "quant"),
    [("gguf", "q4_k_m"), ("onnx", "int4"), ("onnx", "f16"), ("onnx", "int8_dynamic"), ("onnx", "awq_gptq")],
)
def test_converting_twice_gives_the_same_bytes(to: Form, quant: str, tmp_path: Path) -> None:
    """All files of the package; the proof tells what was measured, which may differ."""
    folder = write_hf(tmp_path / "m", "llama")
    for name in ("a", "b"):
        convert(folder, tmp_path / name, to=to, quant=quant, test=QUICK, gates=LOOSE)
    files = names(tmp_path / "a") - {"proof.json"}
    assert files == names(tmp_path / "b") - {"proof.json"}
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("quant", ["gptq", "mixed"])
def test_calibrated_blocks_make_a_gguf_package(quant: str, source: Path, tmp_path: Path) -> None:
    """By our rounding; the record says on which text."""
    made = convert(source, tmp_path / "out", to="gguf", quant=quant, test=QUICK, gates=LOOSE)
    kinds = {tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "out" / "model.gguf").tensors}
    assert kinds == {"F32", "Q4_1", "Q8_0"}
    assert made.manifest is not None
    assert made.manifest.id == f"tiny@llamacpp-{quant}"
    assert made.manifest.provenance["calibration"].startswith("text ")


def test_there_is_nothing_to_carry_from_floats(source: Path, tmp_path: Path) -> None:
    """Nor from a file that is what it would become."""
    for path in (source, write_hf(tmp_path / "m", "llama")):
        with pytest.raises(ModelUnsupported, match="no blocks"):
            convert(path, tmp_path / "out", to="gguf", quant="exact", test=QUICK)
    assert "out" not in names(tmp_path)


def edit_tensor(path: Path, name: str, change: Callable[[Bytes], None]) -> None:
    """Change a tensor's bytes in place."""
    tensor = next(t for t in gguf.GGUFReader(path).tensors if t.name == name)
    values = np.memmap(path, np.uint8, "r+", int(tensor.data_offset), (int(tensor.n_bytes),))
    change(values)
    values.flush()


def read_tensor(path: Path, name: str) -> Bytes:
    """A tensor's bytes."""
    tensor = next(t for t in gguf.GGUFReader(path).tensors if t.name == name)
    return np.fromfile(path, np.uint8, int(tensor.n_bytes), offset=int(tensor.data_offset))


def zero_layer(path: Path) -> None:
    """One layer adds nothing any more."""
    for name in ("blk.0.attn_output.weight", "blk.0.ffn_down.weight"):
        edit_tensor(path, name, lambda values: values.fill(0))


def swap_layers(path: Path) -> None:
    """Two layers in each other's place."""
    for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        kept = [read_tensor(path, f"blk.{i}.{part}.weight") for i in (0, 1)]
        edit_tensor(path, f"blk.0.{part}.weight", partial(np.copyto, src=kept[1]))
        edit_tensor(path, f"blk.1.{part}.weight", partial(np.copyto, src=kept[0]))


def replace_once(path: Path, old: bytes, new: bytes) -> None:
    """Bytes of the header, as long as before."""
    content = path.read_bytes()
    assert content.count(old) == 1
    assert len(old) == len(new)
    path.write_bytes(content.replace(old, new))


def wrong_rope(path: Path) -> None:
    """The base of the rotary embedding."""
    key = b"llama.rope.freq_base" + (6).to_bytes(4, "little")
    replace_once(path, key + np.float32(10000).tobytes(), key + np.float32(30).tobytes())


def shift_tokens(path: Path) -> None:
    """The letters A and B for each other."""
    one, other = (len(b).to_bytes(8, "little") + b for b in (b"A", b"B"))
    replace_once(path, one + other, other + one)


def lose_template(path: Path) -> None:
    """Nobody finds the template any more."""
    replace_once(path, b"tokenizer.chat_template", b"tokenizer.chat_templatX")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (zero_layer, "next tokens"),
        (swap_layers, "next tokens"),
        (wrong_rope, "next tokens"),
        (shift_tokens, "tokenizer gives other ids"),
        (lose_template, "template is lost"),
    ],
)
def test_damage_is_refused_with_its_reason(
    damage: Callable[[Path], None], says: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the converter might do wrong, the package does not come into being."""
    honest = making._requantize

    def damaged(origin: Path, target: Path, kind: str, progress: Progress, importance: None) -> None:
        honest(origin, target, kind, progress, importance)
        damage(target)

    monkeypatch.setattr(making, "_requantize", damaged)
    with pytest.raises(GateFailed) as caught:
        convert(source, tmp_path / "out", to="gguf", quant="f32", test=QUICK)
    assert says in str(caught.value)
    assert isinstance(caught.value.proof, Proof)
    assert not caught.value.proof.passed
    assert names(tmp_path) == {"tiny.gguf", "edgeai-home"}


def test_a_lost_licence_is_refused(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package without its source's licence is none."""
    from dataclasses import replace

    def forgetful(folder: Path, manifest: Manifest) -> None:
        write_manifest(folder, replace(manifest, licence=None))

    monkeypatch.setattr("edgeai.converters.make.write_manifest", forgetful)
    with pytest.raises(GateFailed, match="licence is lost"):
        convert(source, tmp_path / "out", to="gguf", quant="f16", test=QUICK)


@pytest.mark.parametrize(
    ("gates", "says"),
    [
        (Gates(max_kl=0.0), "KL"),
        (Gates(min_agreement=1.1), "favourites"),
        (Gates(max_size=1000), "bytes"),
        (Gates(min_speed=1.0), "speed could not be measured"),
    ],
)
def test_a_missed_gate_leaves_no_package(gates: Gates, says: str, source: Path, tmp_path: Path) -> None:
    """Only the proof, in the error."""
    with pytest.raises(GateFailed, match=says):
        convert(source, tmp_path / "out", to="gguf", quant="q8_0", gates=gates, test=QUICK)
    assert names(tmp_path) == {"tiny.gguf", "edgeai-home"}


def test_an_interrupt_leaves_nothing(source: Path, tmp_path: Path) -> None:
    """Ctrl-C at any step."""
    for step in ("convert", "reference", "prove"):

        def interrupt(stage: Stage, step: str = step) -> None:
            if stage.step == step:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            convert(source, tmp_path / "out", to="gguf", quant="q8_0", test=QUICK, tell=interrupt)
        assert names(tmp_path) == {"tiny.gguf", "edgeai-home"}


def only_pickles(folder: Path) -> None:
    """Weights that could run code."""
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def no_shard(folder: Path) -> None:
    """An index, and one of its files is missing."""
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def strange(folder: Path) -> None:
    """An architecture that nobody knows."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mamba"}))


def wrong_shape(folder: Path) -> None:
    """A matrix of another model."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 80}))


def not_numbers(folder: Path) -> None:
    """Weights that are not finite."""
    source = open_source(folder)
    assert source.n_parameters
    from edgeai.converters.safetensors_file import open_folder

    tensors = {name: tensor.floats() for name, tensor in open_folder(folder).items()}
    tensors = {name: values.copy() for name, values in tensors.items()}
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = np.nan
    write_safetensors(folder / "model.safetensors", tensors)


@pytest.mark.parametrize(
    ("damage", "error", "says"),
    [
        (only_pickles, ModelUnsupported, "pickles"),
        (no_shard, ModelNotFound, "model-2"),
        (strange, ModelUnsupported, "mamba"),
        (wrong_shape, ModelCorrupt, "shape"),
        (not_numbers, ModelCorrupt, "not numbers"),
        (shutil.rmtree, ModelNotFound, "no model"),
    ],
)
def test_bad_sources_are_named_and_leave_nothing(
    damage: Callable[[Path], None], error: type[EdgeError], says: str, tmp_path: Path
) -> None:
    """Typed errors, and no trace of the attempt."""
    folder = write_hf(tmp_path / "m", "llama")
    damage(folder)
    with pytest.raises(error, match=says):
        convert(folder, tmp_path / "made" / "out", to="gguf", quant="f16", test=QUICK)
    assert not (tmp_path / "made").exists() or names(tmp_path / "made") == set()


def test_an_installed_model_is_a_source_by_its_name_or_its_folder(source: Path, tmp_path: Path) -> None:
    """What is installed need not be looked for in the store; another name is told the nearest."""
    model = import_(source, "small")
    folder = models_dir() / model.id
    sources: tuple[str | Path, ...] = ("small", model.id, folder)
    for i, named in enumerate(sources):
        made = convert(named, tmp_path / f"out{i}", quant="q8_0", gates=LOOSE, test=QUICK)
        assert made.proof.passed
        assert made.manifest is not None
        assert made.manifest.provenance["source_sha256"] == model.manifest.weights.sha256
    with pytest.raises(ModelNotFound, match="small"):
        convert("smal", tmp_path / "no", test=QUICK)


def test_a_licences_text_goes_from_package_to_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the licence's name with it; where the text is lost there is no package."""
    folder = write_hf(tmp_path / "model", "llama")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / "LICENSE").write_text("Do as you like.")
    first = convert(folder, tmp_path / "first", quant="f16", name="Mine", gates=LOOSE, test=QUICK).folder
    for to in ("gguf", "onnx"):
        out = tmp_path / to
        made = convert(first / "model.gguf", out, to=to, quant="f32", gates=LOOSE, test=QUICK).manifest
        assert made is not None
        assert made.licence == "mit"
        assert (out / "LICENSE").read_text() == "Do as you like."
    assert read_manifest(first).provenance["command"].endswith("--quant f16 --name mine")
    monkeypatch.setattr(making, "_carry", lambda *_: ())
    with pytest.raises(GateFailed, match="licence's text is lost: LICENSE"):
        convert(first / "model.gguf", tmp_path / "lost", quant="f32", gates=LOOSE, test=QUICK)


def test_what_does_not_fit_is_told_before_anything_is_read(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too little disk, too little memory here, too little memory there; nothing was begun."""
    begun: list[str] = []
    monkeypatch.setattr(making, "_requantize", lambda *_: begun.append("begun"))
    with pytest.raises(ModelTooLarge, match="does not fit the device"):
        convert(source, tmp_path / "out", quant="q8_0", gates=Gates(max_memory=1 << 20), test=QUICK)
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: usage._replace(free=1000))
        with pytest.raises(DiskFull):
            convert(source, tmp_path / "out", quant="q8_0", test=QUICK)
    with monkeypatch.context() as patch:
        patch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 1000}))
        with pytest.raises(OutOfMemory):
            convert(source, tmp_path / "out", quant="q8_0", test=QUICK)
    assert begun == []


def test_a_graph_for_npus_counts_in_what_is_needed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the disk the floats that it is made of, too; and in memory what its calibration computes."""
    origin, form = open_origin(source), format_of("onnx", "int8")
    plain, whole, calmed = (estimate(origin, form, npu=npu) for npu in (None, "a16w8", "a8w8"))
    assert plain.disk + 4 * origin.parameters < whole.disk == calmed.disk - 4 * origin.parameters
    assert plain.package < whole.package < whole.disk
    assert plain.converting < whole.converting
    few, many = (estimate(origin, format_of("gguf", quant)) for quant in ("q4_k_m", "q8_0"))
    assert few.converting > many.converting, "the importance matrix comes from the layers in floats"
    kept, rounded = (estimate(origin, format_of("onnx", quant)) for quant in ("gptq", "int4"))
    assert kept.disk > rounded.disk, "layers that are done are kept, to go on from"
    free = (plain.converting + whole.converting) // 2
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": free}))
    with pytest.raises(OutOfMemory, match="int8"):
        convert(source, tmp_path / "out", to="onnx", npu="a16w8", test=QUICK)


def test_an_encoder_that_does_not_fit_is_told_before_it_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too little memory, too little disk, too many parameters."""
    encoder = Encoder(
        path=tmp_path, name="encoder", head=Head(task="embedding"), max_tokens=64, parameters=20_000_000,
        n_bytes=80_000_000, licence=None, licence_texts=(), provenance={},
    )  # fmt: skip
    check_encoder_fits(encoder, tmp_path, "a8w8", allow_large=False)
    with pytest.raises(ModelTooLarge, match="does not fit the device"):
        check_encoder_fits(encoder, tmp_path, None, allow_large=False, max_memory=100_000_000)
    with pytest.raises(ModelTooLarge):
        check_encoder_fits(replace(encoder, parameters=1 << 33), tmp_path, None, allow_large=False)
    with monkeypatch.context() as patch:
        patch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 1_000_000_000}))
        check_encoder_fits(encoder, tmp_path, None, allow_large=False)
        with pytest.raises(OutOfMemory, match="encoder with optimum"):
            check_encoder_fits(encoder, tmp_path, "a16w8", allow_large=False)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=400_000_000))
    check_encoder_fits(encoder, tmp_path, None, allow_large=False)
    with pytest.raises(DiskFull):
        check_encoder_fits(encoder, tmp_path, "a8w8", allow_large=False)


def test_an_encoders_speed_is_what_it_reads(tmp_path: Path) -> None:
    """Which is what the gate on speed then bounds; it decodes nothing."""
    found = measure(write_encoder(tmp_path / "package", Head(task="embedding")), n_ctx=8)
    assert found.decode_tps is None
    assert found.pace == found.prefill_tps > 0
    assert found.load_s > 0
    assert found.resident_bytes > 10e6
    (kept,) = check(Gates(min_speed=found.pace), None, 1, found, {})
    (missed,) = check(Gates(min_speed=2 * found.pace), None, 1, found, {})
    assert kept.passed
    assert missed.reason is not None
    assert missed.reason.startswith("it reads")


def test_large_models_are_refused_unless_allowed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is one of parameters."""
    monkeypatch.setattr("edgeai.models.shelf.MAX_PARAMETERS", 1000)
    with pytest.raises(ModelTooLarge, match="billion"):
        convert(source, tmp_path / "out", quant="q8_0", test=QUICK)
    convert(source, tmp_path / "out", quant="f16", test=QUICK, allow_large=True)


def test_a_format_that_is_none(source: Path, tmp_path: Path) -> None:
    """Says which there are, and an existing folder is not touched."""
    with pytest.raises(ConfigError, match="q4_k_m"):
        convert(source, tmp_path / "out", to="gguf", quant="q3", test=QUICK)
    with pytest.raises(ConfigError, match="exists"):
        convert(source, tmp_path, to="gguf", quant="q8_0", test=QUICK)


@pytest.mark.parametrize(("to", "quant"), [("onnx", "awq_gptq"), ("gguf", "gptq")])
def test_an_interrupted_conversion_goes_on(to: Form, quant: str, source: Path, tmp_path: Path) -> None:
    """From the layer that it had come to, to the same bytes; at the end nothing of it is left."""
    kept = cache_dir() / "conversions"
    halted: list[int] = []

    def halt(stage: Stage) -> None:
        if stage.step == "convert" and stage.done:
            halted.append(stage.done)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "a", to=to, quant=quant, gates=LOOSE, test=QUICK, tell=halt)
    assert not (tmp_path / "a").exists()
    assert len(list(kept.glob("*/layer-*"))) == 1
    again = convert(source, tmp_path / "a", to=to, quant=quant, gates=LOOSE, test=QUICK)
    assert list(kept.glob("*")) == []
    whole = convert(source, tmp_path / "b", to=to, quant=quant, gates=LOOSE, test=QUICK)
    assert again.manifest == whole.manifest


def test_small_models_may_lose_more() -> None:
    """Default gates follow the size of the model and the format; what is given wins."""
    four = Format(form="gguf", quant="q4_0", bits=5, care="four")
    small, large = Gates().filled(four, 10**8), Gates().filled(four, 2 * 10**9)
    assert small.max_kl is not None
    assert large.max_kl is not None
    assert small.max_kl > large.max_kl
    assert Gates(max_kl=7.0).filled(four, 10**8).max_kl == 7.0


def test_importance_changes_what_is_kept(source: Path, tmp_path: Path) -> None:
    """It is there for every quantized matrix, says which inputs are large, and the codes follow it."""
    found = importance(open_source(source), tokens=300)
    shapes = {t.name: int(t.shape[0]) for t in gguf.GGUFReader(source).tensors if len(t.shape) == 2}
    for name, n_inputs in shapes.items():
        if name != "token_embd.weight":
            assert found[name].shape == (n_inputs,)
            assert np.isfinite(found[name]).all()
            assert found[name].std() > 0
    requantize(source, tmp_path / "a.gguf", "q4_0", n_threads=1)
    requantize(source, tmp_path / "b.gguf", "q4_0", n_threads=1, importance=found)
    assert (tmp_path / "a.gguf").read_bytes() != (tmp_path / "b.gguf").read_bytes()


def test_the_importance_of_an_input_is_its_mean_square(source: Path) -> None:
    """Against the last layer's norm, whose output is known: each row has a mean square of one."""
    found = importance(open_source(source), tokens=200)
    assert found["blk.0.attn_q.weight"].mean() == pytest.approx(1.0, rel=1e-2)
    np.testing.assert_array_equal(found["blk.0.attn_q.weight"], found["blk.0.attn_v.weight"])


def test_texts_for_measuring_and_calibrating_share_no_topic() -> None:
    """Both are there, and no paragraph is in both."""
    ours, theirs = (set(text.split("\n\n")) for text in (held_out_text(), calibration_text()))
    assert len(ours) > 100
    assert len(theirs) > 100
    assert not ours & theirs
