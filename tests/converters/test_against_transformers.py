"""Every architecture, as a tiny model with random weights, against transformers' own logits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("onnxruntime")

from edgeai.converters.graph import write_graph  # noqa: E402
from edgeai.converters.hf_writer import write_folder  # noqa: E402
from edgeai.converters.linear import Plan  # noqa: E402
from edgeai.converters.onnx_package import open_source  # noqa: E402
from tests.converters.graph_runner import GraphRunner  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs

COMMON = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0 + i / 8 for i in range(8)],
    "long_factor": [2.0 + i for i in range(8)],
    "original_max_position_embeddings": 64,
}
PARTIAL = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama tied, wide heads": ("Llama", {"tie_word_embeddings": True, "head_dim": 32}),
    "llama 3.2 rope": ("Llama", {"rope_parameters": LLAMA3}),
    "llama with biases": ("Llama", {"attention_bias": True}),
    "mistral": ("Mistral", {"sliding_window": 8}),
    "qwen2": ("Qwen2", {}),
    "qwen2 with windows": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
    ),
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "gemma3": (
        "Gemma3",
        {"head_dim": 32, "sliding_window": 8, "query_pre_attn_scalar": 24, "final_logit_softcapping": 5.0},
    ),
    "phi3": ("Phi3", {"sliding_window": 8}),
    "phi3, part of a head rotated": ("Phi3", {"rope_parameters": PARTIAL, "head_dim": 32}),
    "phi3 with longrope": ("Phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 64}),
}
PROMPT = np.random.default_rng(3).integers(3, 160, 40).tolist()


def make(kind: str, folder: Path) -> Callable[..., Any]:
    """A model with random weights, biases and norms, saved to the folder."""
    family, changes = MODELS[kind]
    family = {"Gemma3": "Gemma3Text"}.get(family, family)
    config = getattr(transformers, f"{family}Config")(**COMMON | changes)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, values in model.named_parameters():
            values.normal_(1.0 if "norm" in name and family != "Gemma3Text" else 0.0, 0.15)
    model.save_pretrained(folder)
    return model  # type: ignore[no-any-return]  # transformers is imported by name


@pytest.mark.parametrize("kind", MODELS)
def test_logits_equal_those_of_transformers(kind: str, tmp_path: Path) -> None:
    """In one piece, in chunks and token by token, the float graph computes what transformers computes."""
    model = make(kind, tmp_path / "source")
    package = tmp_path / "package"
    package.mkdir()
    source = open_source(tmp_path / "source")
    write_graph(source, package, Plan(quant="f32"), source.decoder.max_positions, lambda done, total: None)
    with torch.no_grad():
        expected = model(torch.tensor([PROMPT]), output_hidden_states=True)
    logits, hidden = expected.logits[0].numpy(), expected.hidden_states[-1][0].numpy()
    assert np.abs(logits).std() > 0.05

    whole = GraphRunner(package).run([PROMPT], 0, range(40))
    np.testing.assert_allclose(whole[0], logits, atol=2e-4)
    np.testing.assert_allclose(whole[1], hidden, atol=2e-4)

    runner = GraphRunner(package)
    runner.run([PROMPT[:24]], 0, [])
    chunk, _ = runner.run([PROMPT[24:36]], 24, [11])
    np.testing.assert_allclose(chunk[0], logits[35], atol=2e-4)
    for position in range(36, 40):
        step, _ = runner.run([[PROMPT[position]]], position, [0])
        np.testing.assert_allclose(step[0], logits[position], atol=2e-4)


WRITTEN = sorted(set(MODELS) - {"llama 3.2 rope"})  # its factors are of another original context than Meta's


@pytest.mark.parametrize("kind", WRITTEN)
def test_transformers_reads_what_is_written(kind: str, tmp_path: Path) -> None:
    """A folder that the converter has written gives transformers the same logits as its own."""
    from tests.converters.folders import write_hf

    model, source = make(kind, tmp_path / "source"), tmp_path / "source"
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        path = write_hf(tmp_path / f"tokenizer-{name}", "llama") / name
        (source / name).write_bytes(path.read_bytes())
    (tmp_path / "written").mkdir()
    write_folder(open_source(source), tmp_path / "written", "f32", max_shard=200_000)
    again, found = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "written", output_loading_info=True, attn_implementation="eager"
    )
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    with torch.no_grad():
        ours, theirs = again.eval()(torch.tensor([PROMPT])).logits, model(torch.tensor([PROMPT])).logits
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=2e-5)
