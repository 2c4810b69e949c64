"""Encoders by optimum against transformers, real ones and tiny ones; `make test-converters` runs these."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("optimum.exporters.onnx")
pytest.importorskip("all_minilm_l6_v2")

from edgeai import Edge  # noqa: E402
from edgeai.cli import main  # noqa: E402
from edgeai.converters.encoder import ENCODERS  # noqa: E402
from edgeai.converters.proof import Trial  # noqa: E402
from edgeai.converters.stages import Stage  # noqa: E402
from edgeai.converters.toolchain import convert  # noqa: E402
from edgeai.converters.wishes import convert as wished  # noqa: E402
from edgeai.models.package import read_manifest  # noqa: E402
from tests.converters.encoders import HELD_OUT, LABELS, LICENCE, add_head, unpack  # noqa: E402
from tests.converters.make_all import assert_the_same_twice  # noqa: E402
from tests.converters.tiny_encoders import KINDS, POSITIONS, write_encoder  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]  # theirs; a real model

TEXTS = (
    "The weather is lovely today.",
    "Das Wetter ist heute schön, und wir gehen ins Schwimmbad.",
    "今日はとても良い天気です。",
    "Сегодня прекрасная погода!",
    "الطقس جميل اليوم",
    "Ein Wort: Donaudampfschifffahrtsgesellschaftskapitän 🚢",
    "def f(x):\n    return x ** 2  # squares",
    "A text that is longer than what its tokenizer was once told to keep. " * 12,
)


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(tmp_path_factory.mktemp("source") / "all-MiniLM-L6-v2")


@pytest.fixture(scope="module")
def topics(minilm: Path) -> Path:
    return add_head(minilm, minilm.parent / "topics")


def test_embeddings_are_those_of_transformers(minilm: Path, tmp_path: Path) -> None:
    """The mean of the states, of unit length, in many scripts; texts of unlike length at once."""
    told: list[Stage] = []
    package = wished(minilm, tmp_path / "package", tell=told.append).package  # the one format there is
    assert package.proof.passed
    for step in ("convert", "prove"):
        steps = [(stage.done, stage.total) for stage in told if stage.step == step]
        assert [done for done, _ in steps] == list(range(steps[-1][1] + 1)), step
        assert steps[-1][1] >= 2
    with Edge(tmp_path / "package", engine="onnx", isolation="thread", ledger=False) as edge:
        ours = edge.embed(TEXTS)
    theirs = np.array([embedding(minilm, text) for text in TEXTS])
    cosines = (ours * theirs).sum(axis=1)
    print("least cosine", cosines.min())  # noqa: T201  # for docs/converting.md
    assert cosines.min() > 0.9999
    assert np.abs(np.linalg.norm(ours, axis=1) - 1).max() < 1e-5


def test_a_classifier_on_it_chooses_as_transformers_does(
    topics: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its probabilities are the source's, and right on sentences that it was not fitted to."""
    out = tmp_path / "package"
    command(["convert", str(topics), "--to", "onnx", "--npu", "a16w8", "--out", str(out)])
    assert f"its licence: {LICENCE}" in capfd.readouterr().err
    gates = json.loads((out / "proof.json").read_text("utf-8"))["gates"]
    assert [gate["name"] for gate in gates] == [
        *("tokenizer", "licence", "kl", "agreement", "memory", "npu a16w8 cosine", "npu model cosine"),
    ]
    assert re.fullmatch(r"a16w8: (\d+) of \1 inputs of weights in 16 bits", gates[-2]["note"])
    with Edge(out, engine="onnx", isolation="thread", ledger=False) as edge:
        assert edge.info.labels == LABELS
        for label, texts in HELD_OUT.items():
            for text in texts:
                choice = edge.choose(text, edge.info.labels)
                theirs = probabilities(topics, text)
                assert choice.label == label == LABELS[int(theirs.argmax())], (text, choice)
                assert choice.probabilities is not None
                ours = [choice.probabilities[name] for name in LABELS]
                np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_the_licence_is_carried_and_where_it_comes_from_is_told(minilm: Path, tmp_path: Path) -> None:
    """What the card says and the texts beside it are in the package, with the command that made it."""
    (minilm / "NOTICE").write_text("Made by others", "utf-8")
    convert(minilm, tmp_path / "package", to="onnx")
    manifest = read_manifest(tmp_path / "package")
    assert manifest.licence == LICENCE
    assert (tmp_path / "package" / "NOTICE").read_text("utf-8") == "Made by others"
    assert manifest.provenance["command"] == "edgeai convert all-minilm-l6-v2 --to onnx"
    assert "optimum-onnx" in manifest.provenance["made_with"]


def test_packages_are_the_same_in_another_process(minilm: Path, topics: Path, tmp_path: Path) -> None:
    """All files but the proof's, the graphs for NPUs with them."""
    assert_the_same_twice(minilm, tmp_path / "embeddings", ["onnx", "onnx::a16w8", "onnx::a8w8"])
    assert_the_same_twice(topics, tmp_path / "classifiers", ["onnx::a8w8"])


SHORT = tuple(text[:60] for text in TEXTS)


def test_every_type_that_is_promised_is_tried() -> None:
    """Here, and no other."""
    assert sorted(KINDS) == sorted(ENCODERS)


@pytest.mark.parametrize("kind", KINDS)
def test_tiny_encoders_of_every_type_embed_as_transformers_does(kind: str, tmp_path: Path) -> None:
    """Texts of unlike length at once, so that there is padding, the longest that may be among them.

    Texts are less alike to it than the two are.
    """
    source = write_encoder(tmp_path / "source", kind)
    made = convert(source, tmp_path / "package", to="onnx", test=Trial(speed=False)).manifest
    assert made is not None
    assert POSITIONS - 2 <= made.context <= POSITIONS
    texts = (*SHORT, "x" * (made.context - 2))
    with Edge(tmp_path / "package", engine="onnx", isolation="thread", ledger=False) as edge:
        ours = edge.embed(texts)
    theirs = np.array([tiny_embedding(source, text) for text in texts])
    assert (ours * theirs).sum(axis=1).min() > 0.99999
    assert (theirs[:-1] * theirs[1:]).sum(axis=1).max() < 0.999


@pytest.mark.parametrize("kind", KINDS)
def test_tiny_classifiers_of_every_type_choose_as_transformers_does(kind: str, tmp_path: Path) -> None:
    """With its probabilities, which are not all alike."""
    source = write_encoder(tmp_path / "source", kind, labels=True)
    convert(source, tmp_path / "package", to="onnx", test=Trial(speed=False))
    theirs = np.array([tiny_probabilities(source, text) for text in SHORT])
    with Edge(tmp_path / "package", engine="onnx", isolation="thread", ledger=False) as edge:
        chosen = [edge.choose(text, edge.info.labels).probabilities or {} for text in SHORT]
        ours = np.array([[row[name] for name in edge.info.labels] for row in chosen])
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert np.ptp(theirs, axis=0).max() > 0.01


def tiny_embedding(folder: Path, text: str) -> Any:  # noqa: ANN401  # numpy's own
    states = tiny_run(transformers.AutoModel, folder, text).last_hidden_state[0]
    return torch.nn.functional.normalize(states.mean(dim=0), dim=0).numpy()


def tiny_probabilities(folder: Path, text: str) -> Any:  # noqa: ANN401  # numpy's own
    found = tiny_run(transformers.AutoModelForSequenceClassification, folder, text)
    return torch.softmax(found.logits[0], dim=0).numpy()


def tiny_run(auto: Any, folder: Path, text: str) -> Any:  # noqa: ANN401  # theirs
    """With the attention that transformers prefers: not the one that was exported."""
    model = auto.from_pretrained(folder).eval()
    ids = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long))


def embedding(folder: Path, text: str) -> Any:  # noqa: ANN401  # numpy's own
    model = transformers.AutoModel.from_pretrained(folder).eval()
    states = run(model, folder, text).last_hidden_state[0]
    return torch.nn.functional.normalize(states.mean(dim=0), dim=0).numpy()


def probabilities(folder: Path, text: str) -> Any:  # noqa: ANN401  # numpy's own
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    return torch.softmax(run(model, folder, text).logits[0], dim=0).numpy()


def run(model: Any, folder: Path, text: str) -> Any:  # noqa: ANN401  # theirs
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        return model(**tokenizer(text, return_tensors="pt"))


def command(words: list[str]) -> None:
    """The command line's, which must succeed."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code in (0, None)
