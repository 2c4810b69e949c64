"""Tokens and text of packages, with byte-level and with SentencePiece tokens."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeai.engines.onnx.folder import Folder, read_folder
from edgeai.engines.onnx.tokenizer import PackageVocabulary
from edgeai.errors import ConfigError, EngineCrashed, ModelUnsupported
from tests.engines.onnx.conftest import write_tiny_package


def sentence_piece() -> dict[str, Any]:
    """A tokenizer.json as Llama 2's: characters, all bytes, three control tokens."""
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        *"abcdefgh",
        "ab",
        "▁ab",
    ]
    return {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": None,
        "added_tokens": [
            {
                "id": i,
                "content": tokens[i],
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for i in range(3)
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [["a", "b"], ["▁", "ab"]],
        },
    }


def folder_of(table: dict[str, Any]) -> Folder:
    """A folder with nothing but a tokenizer and the names of two tokens."""
    return Folder(
        tokenizer=json.dumps(table),
        chat_template=None,
        bos="<s>",
        eos="</s>",
        bos_id=None,
        eos_ids=(),
        add_bos=None,
        context=None,
        n_embd=None,
        n_kv_heads=None,
        head_dim=None,
    )


@pytest.fixture(scope="module")
def pieces() -> PackageVocabulary:
    """The SentencePiece kind, in a model with a few rows more than tokens."""
    return PackageVocabulary(folder_of(sentence_piece()), 280)


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> PackageVocabulary:
    """The byte-level kind."""
    return PackageVocabulary(
        read_folder(write_tiny_package(tmp_path_factory.mktemp("vocabulary") / "tiny")), 267
    )


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=30))
def test_pieces_join_to_the_text(pieces: PackageVocabulary, letters: PackageVocabulary, text: str) -> None:
    """The bytes of a text's tokens are the text's, in both kinds; SentencePiece puts a space before it."""
    wanted = text.encode("utf-8")
    assert b"".join(map(letters.piece, letters.tokenize(text))) == wanted
    if "▁" not in text:
        found = b"".join(map(pieces.piece, pieces.tokenize(text)))
        assert found == (b" " + wanted if text else b"")


def test_control_tokens_are_read_only_when_asked_for(pieces: PackageVocabulary) -> None:
    """A spelled control token is text otherwise; control tokens have no text of their own."""
    assert pieces.tokenize("</s>", special=True) == [2]
    assert 2 not in pieces.tokenize("</s>")
    assert [pieces.piece(token) for token in (0, 1, 2, 279)] == [b"", b"", b"", b""]
    assert (pieces.bos, pieces.eos, pieces.eog, pieces.control) == (
        1,
        2,
        frozenset({2}),
        frozenset({0, 1, 2}),
    )


def test_the_package_s_own_rules_decide_about_the_beginning(pieces: PackageVocabulary) -> None:
    """A tokenizer that begins texts with BOS makes whole documents begin so, and nothing is cut off."""
    assert pieces.add_bos
    assert pieces.tokenize("ab abcdefgh", whole=True)[0] == 1
    assert len(pieces.tokenize("ab abcdefgh")) > 4  # the file's own truncation is not for us


def test_closed_vocabularies_and_broken_texts(letters: PackageVocabulary) -> None:
    """Lone surrogates and closed engines have typed errors."""
    with pytest.raises(ConfigError, match="Unicode"):
        letters.tokenize("\ud800")
    closed = PackageVocabulary(folder_of(sentence_piece()), 280)
    closed.close()
    with pytest.raises(EngineCrashed, match="closed"):
        closed.tokenize("a")


def test_an_unknown_kind_is_refused() -> None:
    """Tokens whose bytes cannot be told are not guessed."""
    table = sentence_piece() | {"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}}
    with pytest.raises(ModelUnsupported, match="WordPiece"):
        PackageVocabulary(folder_of(table), 280)


def test_side_files_of_all_exporters_are_understood(tmp_path: Path) -> None:
    """What genai's and transformers' files say, the first that says it."""
    folder = write_tiny_package(tmp_path / "tiny")
    (folder / "generation_config.json").unlink()
    decoder = {"head_size": 16, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    genai = {"model": {"context_length": 99, "eos_token_id": [2, 0], "bos_token_id": 1, "decoder": decoder}}
    (folder / "genai_config.json").write_text(json.dumps(genai), "utf-8")
    (folder / "config.json").write_text(
        json.dumps({"max_position_embeddings": 7, "eos_token_id": 5}), "utf-8"
    )
    found = read_folder(folder)
    assert (found.context, found.eos_ids, found.bos_id) == (99, (2, 0, 5), 1)
    assert (found.n_embd, found.n_kv_heads, found.head_dim) == (64, 2, 16)
