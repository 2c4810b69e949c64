"""Names by a model: a tiny one of ours, through the libraries that real ones go through."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import tokenizers
from onnx import TensorProto, helper, numpy_helper
from tokenizers import models, normalizers, pre_tokenizers, processors

from edgeai import ConfigError, Edge, Policy, Redaction
from edgeai.errors import ModelCorrupt, ModelNotFound
from edgeai.ner import NameModel
from edgeai.testing import FakeCloud, FakeEngine

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
PIECES = {"Ana": 1, "Ko": 1, "##vač": 0, "Rome": 3, "New": 3, "York": 4, "田": 1, "中": 2, "Ambrosius": 2}
WORDS = ["[UNK]", "[CLS]", "[SEP]", "writes", "to", "from", "in", "a", ".", *PIECES]
TEXT = "Ana Kovač writes to 田中 in New York."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model that looks each token's label up in a table."""
    vocabulary = {word: at for at, word in enumerate(WORDS)}
    table = np.full((len(WORDS), len(LABELS)), -4, np.float32)
    for word, at in vocabulary.items():
        table[at, PIECES.get(word, 0)] = 4
    table[vocabulary["Ambrosius"]] = [0.6, 0, 0.5, -4, -4]  # two labels of one kind count together
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, None])
    mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, [1, None])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, None, len(LABELS)])
    look_up = helper.make_node("Gather", ["table", "input_ids"], ["logits"])
    stored = [numpy_helper.from_array(table, "table")]
    graph = helper.make_graph([look_up], "names", [ids, mask], [logits], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "model.onnx")
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    labels = {str(at): label for at, label in enumerate(LABELS)}
    config = {"id2label": labels, "max_position_embeddings": 32}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def seen(model: NameModel, text: str) -> list[tuple[str, str]]:
    return [(text[start:end], kind) for start, end, kind in model(text)]


def test_whole_names(folder: Path) -> None:
    """A word of which a piece is named is whole, neighbours are one; Japanese is cut without spaces."""
    assert seen(NameModel(folder), TEXT) == [("Ana Kovač", "NAME"), ("田中", "NAME"), ("New York", "PLACE")]
    assert seen(NameModel(folder), "") == []


def test_how_sure(folder: Path) -> None:
    """Beginning and inside of a name are one probability, and the app says how much is enough."""
    assert seen(NameModel(folder), "a Ambrosius.") == [("Ambrosius", "NAME")]
    assert seen(NameModel(folder, least=0.9), "a Ambrosius.") == []


def test_long_texts(folder: Path) -> None:
    """A text of many windows is read to its end, and a name at the edge of one is whole."""
    model = NameModel(folder)
    for before in range(24, 36):
        text = "a " * before + "Ana Kovač writes " + "a " * 200 + "in Rome."
        assert seen(model, text) == [("Ana Kovač", "NAME"), ("Rome", "PLACE")]


def test_only_these_kinds(folder: Path) -> None:
    """The app decides which labels matter and what they are called; none at all is a mistake."""
    assert seen(NameModel(folder, kinds={"LOC": "CITY"}), TEXT) == [("New York", "CITY")]
    with pytest.raises(ConfigError, match="B-PER"):
        NameModel(folder, kinds={"ORG": "FIRM"})
    with pytest.raises(ConfigError, match="least"):
        NameModel(folder, least=1)


def test_through_the_gate(folder: Path) -> None:
    """Names and places leave as placeholders and come back; disguised ones, too."""
    cloud = FakeCloud("<NAME_1> should visit <PLACE_1>.")
    redaction = Redaction(recognisers=(NameModel(folder),))
    policy = Policy(privacy="redact", prefer="cloud", redaction=redaction)
    with Edge(engine=FakeEngine(), cloud=cloud, policy=policy, ledger=False) as edge:
        answer = edge.ask(
            "What should a friend see who writes to me: A\u200bna Kovač from Rome. Please be brief."
        )
    sent = cloud.received[0].messages[-1].text
    assert "na Kovač" not in sent
    assert "Rome" not in sent
    assert answer.text == "A\u200bna Kovač should visit Rome."


def test_what_is_no_model(folder: Path) -> None:
    """A folder without its files, or with damaged ones, is a typed error that names the file."""
    (folder / "config.json").write_text("{}")
    with pytest.raises(ModelCorrupt, match="id2label"):
        NameModel(folder)
    (folder / "config.json").write_text("[")
    with pytest.raises(ModelCorrupt, match="JSON"):
        NameModel(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelNotFound, match=r"config\.json"):
        NameModel(folder)
