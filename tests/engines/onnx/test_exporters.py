"""The real exporters, where a Python that has them is named in the environment; both need torch.

``EDGEAI_GENAI_PYTHON`` has onnxruntime-genai and transformers 5, ``EDGEAI_OPTIMUM_PYTHON`` optimum-onnx and
transformers 4: they exclude one another, and this project's own environment.
"""

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from edgeai.converters.linear import floats
from edgeai.converters.onnx_package import open_source
from edgeai.converters.proof import Trial
from edgeai.converters.toolchain import convert
from edgeai.types import Message, Request
from tests.engines.onnx.conftest import Open, write_tiny_package

GENAI, OPTIMUM = os.environ.get("EDGEAI_GENAI_PYTHON"), os.environ.get("EDGEAI_OPTIMUM_PYTHON")
PROMPT = Request(messages=(Message("user", "Tell me about the rain in Spain."),), max_tokens=20)

MAKE = """
import json, sys, torch, transformers
torch.manual_seed(0)
config = getattr(transformers, sys.argv[2] + "Config")(**json.loads(sys.argv[3]))
model = transformers.AutoModelForCausalLM.from_config(config)
for weights in model.parameters():
    if weights.dim() > 1:
        torch.nn.init.normal_(weights, 0, 0.2)
    else:  # exporters store equal norms once
        torch.nn.init.uniform_(weights, 0.8, 1.2)
model.save_pretrained(sys.argv[1])
"""
ASK = """
import json, sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
ids = json.loads(sys.argv[2])
out = model.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False, eos_token_id=2, pad_token_id=0)
print("IDS", json.dumps(out[0, len(ids):].tolist()))
"""
EXPORT = """
import sys
from optimum.exporters.onnx import main_export
main_export(sys.argv[1], sys.argv[2], task="text-generation-with-past", do_validation=False)
"""
COMMON: dict[str, object] = {
    "vocab_size": 267,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
FAMILIES: dict[str, tuple[str, dict[str, object]]] = {
    "llama": ("Llama", {}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "phi3": ("Phi3", {"original_max_position_embeddings": 512}),
    "gemma3": (
        "Gemma3Text",
        {
            "head_dim": 32,
            "sliding_window": 32,
            "query_pre_attn_scalar": 32,
            "num_hidden_layers": 6,  # the last of which attends to all
        },
    ),
}
BUILD = ("-m", "onnxruntime_genai.models.builder", "-p", "fp32", "-e", "cpu")


def run(python: str, *args: str | Path) -> str:
    """The output of another Python, which must succeed."""
    env = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([python, *args], capture_output=True, text=True, env=env, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def source(python: str, folder: Path, kind: str) -> Path:
    """A tiny model with random weights as Hugging Face writes it."""
    package = write_tiny_package(folder / "package")
    family, changes = FAMILIES[kind]
    run(python, "-c", MAKE, folder / "source", family, json.dumps(COMMON | changes))
    for name in ("tokenizer.json", "chat_template.jinja"):
        shutil.copy(package / name, folder / "source")
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|endoftext|>"}
    content = json.dumps({**names, "eos_token": "<|im_end|>", "add_bos_token": False})
    (folder / "source" / "tokenizer_config.json").write_text(content, "utf-8")
    return folder / "source"


def compare(python: str, made: Path, original: Path, opened: Open) -> None:
    """Our greedy tokens are transformers' own, twice, and with two at once."""
    engine = opened(made)
    prompt = engine.tokenize(
        f"<|im_start|>user\n{PROMPT.messages[0].text}<|im_end|>\n<|im_start|>assistant\n", special=True
    )
    line = next(
        text for text in run(python, "-c", ASK, original, str(list(prompt))).splitlines() if "IDS" in text
    )
    wanted = json.loads(line.removeprefix("IDS "))
    streams = [engine.stream(PROMPT), engine.stream(PROMPT)]
    assert [[token.id for token in stream] for stream in streams] == [wanted, wanted]
    assert [token.id for token in engine.stream(PROMPT)] == wanted


def assert_reversible(made: Path, original: Path, folder: Path) -> None:
    """The graph's weights are the model's, and what is made of them computes what the graph does."""
    ours, theirs = open_source(made), open_source(original)
    for role in ("q", "k", "v", "o", "gate", "up", "down"):
        one, other = ours.matrix(role, 1), theirs.matrix(role, 1)
        assert one is not None
        assert other is not None
        assert (floats(one) == floats(other)).all()
    for role in ("attn_norm", "ffn_norm", "q_norm", "k_norm", "post_attn_norm", "post_ffn_norm"):
        ours_v, theirs_v = ours.vector(role, 1), theirs.vector(role, 1)
        assert (ours_v is None) == (theirs_v is None)
        if ours_v is not None and theirs_v is not None:
            assert (ours_v == theirs_v).all()
    assert replace(ours.decoder, name="") == replace(theirs.decoder, name="")
    test = Trial(tokens=96, window=96, speed=False)
    package = convert(made, folder / "again", to="gguf", quant="f16", test=test)
    assert package.proof.reference == "the source itself, in ONNX Runtime"


@pytest.mark.skipif(GENAI is None, reason="EDGEAI_GENAI_PYTHON names no Python")
@pytest.mark.parametrize("kind", [kind for kind in FAMILIES if kind != "gemma3"])
def test_the_real_builder_of_onnxruntime_genai(kind: str, tmp_path: Path, opened: Open) -> None:
    """Its graph gives transformers' greedy tokens, with a shared cache. Gemma 3 is too new for it."""
    assert GENAI
    original = source(GENAI, tmp_path, kind)
    run(GENAI, *BUILD, "-i", original, "-o", tmp_path / "made", "-c", tmp_path / "cache")
    compare(GENAI, tmp_path / "made", original, opened)
    assert opened(tmp_path / "made")._signature.shared
    assert_reversible(tmp_path / "made", original, tmp_path)


@pytest.mark.skipif(OPTIMUM is None, reason="EDGEAI_OPTIMUM_PYTHON names no Python")
@pytest.mark.parametrize("kind", FAMILIES)
def test_the_real_optimum(kind: str, tmp_path: Path, opened: Open) -> None:
    """Its graph gives transformers' greedy tokens, with a growing cache."""
    assert OPTIMUM
    original = source(OPTIMUM, tmp_path, kind)
    run(OPTIMUM, "-c", EXPORT, original, tmp_path / "made")
    compare(OPTIMUM, tmp_path / "made", original, opened)
    assert not opened(tmp_path / "made")._signature.shared
    assert_reversible(tmp_path / "made", original, tmp_path)
