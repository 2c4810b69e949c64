"""Encoders of every type that is converted: tiny, random, with a tokenizer of bytes; needs transformers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

__all__ = ["KINDS", "LABELS", "POSITIONS", "write_encoder"]

LABELS = ("bad", "fair", "good")
POSITIONS = 130
_MARKS = ("<s>", "<pad>", "</s>", "<unk>")  # RoBERTa and its kin count positions from the pad's number on
_SIZES: Mapping[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": POSITIONS,
    "initializer_range": 0.3,  # else all texts are nearly the same to it
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
_DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "max_relative_positions": -1}
KINDS: Mapping[str, Mapping[str, Any]] = {
    "albert": {"embedding_size": 16},
    "bert": {},
    "camembert": {"type_vocab_size": 1},
    "deberta": _DEBERTA | {"position_biased_input": False, "type_vocab_size": 0},
    "deberta-v2": _DEBERTA
    | {"position_buckets": 16, "norm_rel_ebd": "layer_norm", "share_att_key": True, "type_vocab_size": 0},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    "electra": {"embedding_size": 16},
    "modernbert": {"local_attention": 16, "global_attn_every_n_layers": 2, "reference_compile": False},
    "mpnet": {},
    "roberta": {"type_vocab_size": 1},
    "roformer": {"embedding_size": 16},
    "squeezebert": {"embedding_size": 32},
    "xlm-roberta": {"type_vocab_size": 1},
}
"""By ``model_type``: what the real ones of that type have, too."""


def write_encoder(folder: Path, kind: str, *, labels: bool = False) -> Path:
    """A Hugging Face folder; with ``labels`` a text classifier."""
    import torch
    import transformers

    folder.mkdir(parents=True)
    tokenizer = _tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    facts = {**_SIZES, **KINDS[kind], "vocab_size": tokenizer.get_vocab_size()}
    if labels:
        facts |= {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    torch.manual_seed(3)
    auto = transformers.AutoModelForSequenceClassification if labels else transformers.AutoModel
    model = auto.from_config(transformers.AutoConfig.for_model(kind, **facts))
    model.save_pretrained(folder)
    return folder


def _tokenizer() -> tokenizers.Tokenizer:
    names = [*_MARKS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = tokenizers.Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, [], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(_MARKS))
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return made
