"""Encoder packages in the engine: tiny graphs whose states are rows of a table."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import tokenizers
from onnx import TensorProto, helper, numpy_helper

from edgeai import Edge
from edgeai.engines import Offload, Step
from edgeai.engines.onnx import open_engine
from edgeai.engines.onnx.encoder import EncoderEngine
from edgeai.errors import ConfigError, ContextOverflow, ModelCorrupt, ModelUnsupported
from edgeai.models.disk import hash_file
from edgeai.models.package import Head, Manifest, PackageFile, read_manifest, write_manifest
from edgeai.types import Message, Request
from tests.engines.onnx.conftest import tiny_plan

WORDS = ("red", "green", "blue", "day")
TABLE = np.random.default_rng(3).standard_normal((len(WORDS), 3)).astype(np.float32)


def write_encoder(folder: Path, head: Head) -> Path:
    """A package whose states, or mean logits, are the table's rows."""
    folder.mkdir()
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])]
    name = "last_hidden_state"
    shape: list[str | int | None] = ["batch", "tokens", 3]
    if head.task == "classification":
        nodes.append(helper.make_node("ReduceMean", [name, "axis"], ["logits"], keepdims=0))
        name, shape = "logits", ["batch", 3]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(TABLE, "table"), numpy_helper.from_array(np.array([1], np.int64), "axis")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9),
        folder / "model.onnx",
    )
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="day")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.save(str(folder / "tokenizer.json"))
    files = tuple(
        PackageFile(path=n, sha256=hash_file(folder / n), size=(folder / n).stat().st_size)
        for n in ("model.onnx", "tokenizer.json")
    )
    manifest = Manifest(
        id="tiny@onnx-f32", engine="onnx", quantization="f32", parameters=12, context=8,
        template_sha256=None, licence=None, files=files, head=head,
    )  # fmt: skip
    write_manifest(folder, manifest)
    return folder


def opened(folder: Path) -> EncoderEngine:
    engine = open_engine(folder, tiny_plan(), name="tiny")
    assert isinstance(engine, EncoderEngine)
    return engine


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_are_pooled_and_padding_does_not_count(tmp_path: Path, pooling: str) -> None:
    """Texts of different lengths, at once, give what each gives by itself."""
    engine = opened(write_encoder(tmp_path / "e", Head(task="embedding", pooling=pooling)))
    found = engine.embed(["red green blue", "blue"])
    rows = TABLE[:3].mean(axis=0) if pooling == "mean" else TABLE[0], TABLE[2]
    for vector, row in zip(found, rows, strict=True):
        np.testing.assert_allclose(vector, row / np.linalg.norm(row), atol=1e-6)
    engine.close()


def test_a_classifier_scores_its_own_labels(tmp_path: Path) -> None:
    """Log-probabilities of the softmax over all labels; strangers are refused by name."""
    engine = opened(write_encoder(tmp_path / "c", Head(task="classification", labels=("a", "b", "c"))))
    found = engine.score("green", ["c", "a"])
    logprobs = TABLE[1] - np.log(np.exp(TABLE[1]).sum())
    np.testing.assert_allclose(found, [logprobs[2], logprobs[0]], atol=1e-5)
    with pytest.raises(ConfigError, match="does not know 'x'"):
        engine.score("green", ["x"])
    with pytest.raises(ModelUnsupported, match="classifies"):
        engine.embed(["green"])
    engine.close()


def test_what_an_encoder_cannot_do_is_refused(tmp_path: Path) -> None:
    """It writes nothing, and a text that is too long is not cut off."""
    engine = opened(write_encoder(tmp_path / "e", Head(task="embedding")))
    with pytest.raises(ModelUnsupported):
        engine.stream(Request(messages=(Message("user", "red"),), max_tokens=1))
    with pytest.raises(ContextOverflow):
        engine.embed(["red " * 9])
    engine.close()


def test_a_head_is_checked(tmp_path: Path) -> None:
    """The manifest keeps it; a classifier without labels is no classifier."""
    head = Head(task="classification", normalized=False, labels=("a", "b", "c"))
    folder = write_encoder(tmp_path / "c", head)
    assert read_manifest(folder).head == head
    text = (folder / "edgeai.json").read_text("utf-8")
    (folder / "edgeai.json").write_text(text.replace('"b"', '"a"'), "utf-8")
    with pytest.raises(ModelCorrupt, match="labels"):
        read_manifest(folder)


def test_choose_asks_the_classifier(tmp_path: Path) -> None:
    """Through `Edge`: the likeliest of the labels that it knows, and nothing else."""
    folder = write_encoder(tmp_path / "c", Head(task="classification", labels=("a", "b", "c")))
    with Edge(folder, isolation="thread", ledger=False) as edge:
        assert edge.info.labels == ("a", "b", "c")
        choice = edge.choose("green", edge.info.labels)
    shares = np.exp(TABLE[1]) / np.exp(TABLE[1]).sum()
    assert choice.label == "abc"[int(shares.argmax())]
    assert choice.probabilities is not None
    np.testing.assert_allclose(list(choice.probabilities.values()), shares, atol=1e-5)


def test_a_classifier_reads_short_texts_on_another_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same log-probabilities from a graph of fixed length; long texts, and what fails, are read here."""
    folder = write_encoder(tmp_path / "c", Head(task="classification", labels=("a", "b", "c")))
    graph = onnx.load(folder / "model.onnx")
    for port in graph.graph.input:
        port.type.tensor_type.shape.CopyFrom(
            helper.make_tensor_type_proto(TensorProto.INT64, [1, 2]).tensor_type.shape
        )
    onnx.save(graph, tmp_path / "npu.onnx")
    native, step = "CPUExecutionProvider", Step(work="classify", provider="toy")
    elsewhere = Offload(
        work="classify", provider="toy", native=native, graph=str(tmp_path / "npu.onnx"), tokens=2
    )
    usual, labels = opened(folder), ("a", "b", "c")
    engine = open_engine(folder, replace(tiny_plan(), offloads=(elsewhere,), steps=(step,)), name="tiny")
    assert isinstance(engine, EncoderEngine)
    assert engine.info.device == "cpu, classify on toy"
    runs: list[int] = []

    def run(rows: list[list[int]], priority: str) -> object:
        runs.append(len(rows[0]))
        return usual.run(rows)

    monkeypatch.setattr(engine, "run", run)
    np.testing.assert_allclose(
        engine.score("green blue", labels), usual.score("green blue", labels), atol=1e-5
    )
    assert not runs
    long = "green blue red"
    np.testing.assert_allclose(engine.score(long, labels), usual.score(long, labels), atol=1e-5)
    assert runs == [3]
    assert engine._chunk is not None
    engine._chunk._broken = True
    np.testing.assert_allclose(engine.score("red", labels), usual.score("red", labels), atol=1e-5)
    assert runs == [3, 1]
    usual.close()
    engine.close()
