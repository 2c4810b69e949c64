"""An encoder's Hugging Face folder: what it is for, told from its small files. Nothing is loaded."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgeai.converters.licence import licence_files, licence_of
from edgeai.converters.origin import find_folder, refuse_folder, slug
from edgeai.converters.safetensors_file import read_json
from edgeai.errors import ModelCorrupt, ModelNotFound, ModelUnsupported
from edgeai.models.disk import remembered_sha256
from edgeai.models.package import Head

__all__ = ["ENCODERS", "Encoder", "open_encoder"]

ENCODERS: Final = (
    *("albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra"),
    *("modernbert", "mpnet", "roberta", "roformer", "squeezebert", "xlm-roberta"),
)
"""The values of ``model_type`` that optimum exports as encoders; each was compared with transformers."""

_CLASSIFIER: Final = "ForSequenceClassification"
_OFFSET: Final = {"roberta": 2, "xlm-roberta": 2, "camembert": 2, "mpnet": 2}
"""Positions that a family keeps for padding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """``max_tokens`` is the longest text, its marks included; ``parameters`` counts weights."""

    path: Path
    name: str
    head: Head
    max_tokens: int
    parameters: int
    n_bytes: int
    licence: str | None
    licence_texts: tuple[Path, ...]
    provenance: Mapping[str, str]


def open_encoder(source: str | Path) -> Encoder | None:
    """The encoder in this folder, or on the hub under this id; None if it is something else.

    Raises ModelCorrupt, and ModelUnsupported for heads or poolings that no engine here has; for the hub
    MissingExtra and DownloadFailed.
    """
    found = find_folder(source)
    if found is None:
        return None
    path, known = found
    try:
        config = read_json(path / "config.json")
    except ModelNotFound:
        return None
    if config.get("model_type") not in ENCODERS:
        return None
    if not (path / "tokenizer.json").is_file():
        raise ModelNotFound(
            f"{path.name} has no tokenizer.json", remedy="Save its tokenizer with transformers, as a fast one"
        )
    refuse_folder(path)
    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        raise ModelNotFound(f"{path.name} has no weights", remedy="Save the model with safetensors")
    return Encoder(
        path=path,
        name=slug(known.get("source_hub", path.resolve().name).rpartition("/")[2]),
        head=_head(path, config),
        max_tokens=_max_tokens(path, config),
        parameters=sum(map(_count, weights)),
        n_bytes=sum(file.stat().st_size for file in weights),
        licence=licence_of(path),
        licence_texts=licence_files(path),
        provenance={
            "source_format": "safetensors",
            "source_folder": slug(path.resolve().name),
            "source_sha256": " ".join(remembered_sha256(file) for file in weights),
            **known,
        },
    )


def _head(path: Path, config: Mapping[str, Any]) -> Head:
    names = config.get("architectures") or [""]
    if str(names[0]).endswith(_CLASSIFIER):
        return Head(task="classification", normalized=False, labels=_labels(path, config))
    if re.search("For[A-Z]", str(names[0])) and not str(names[0]).endswith(("ForMaskedLM", "ForPreTraining")):
        raise ModelUnsupported(
            f"{path.name} is a {names[0]}", why="Encoders are converted for embedding and classification"
        )
    pooling = _optional(path / "1_Pooling" / "config.json")
    modes = [
        key for key, chosen in pooling.items() if key.startswith("pooling_mode_") and chosen is True
    ] or ["pooling_mode_mean_tokens"]
    known = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    if len(modes) > 1 or modes[0] not in known:
        raise ModelUnsupported(
            f"{path.name} pools by {', '.join(modes)}", why="Known are the mean and the first token"
        )
    modules = _modules(path)
    extra = [kind for kind in modules if kind not in ("Transformer", "Pooling", "Normalize")]
    if extra:
        raise ModelUnsupported(f"{path.name} has a layer {extra[0]} after the pooling")
    # Embeddings of edgeai are unit vectors; a source that does not say so differs by a factor only.
    return Head(task="embedding", pooling=known[modes[0]], normalized=True)


def _labels(path: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    if config.get("problem_type") not in (None, "single_label_classification"):
        raise ModelUnsupported(
            f"{path.name} is for {config['problem_type']}", why="One label a text is what can be chosen"
        )
    table = config.get("id2label") or {}
    try:
        labels = tuple(str(table[str(number)]) for number in range(len(table)))
    except (KeyError, TypeError) as error:
        raise ModelCorrupt(f"{path.name} does not name its labels", why=f"id2label: {error!r}") from error
    if len(set(labels)) < max(2, len(labels)):
        raise ModelUnsupported(
            f"{path.name} has {len(labels)} labels, {len(set(labels))} of them different",
            remedy="Name two or more in config.json, as id2label",
        )
    return labels


def _modules(path: Path) -> list[str]:
    file = path / "modules.json"
    if not file.is_file():
        return []
    try:
        return [str(row["type"]).rpartition(".")[2] for row in json.loads(file.read_text("utf-8"))]
    except (ValueError, TypeError, KeyError) as error:
        raise ModelCorrupt(f"{file} cannot be read", why=repr(error)) from error


def _max_tokens(path: Path, config: Mapping[str, Any]) -> int:
    positions = int(config.get("max_position_embeddings") or 512) - _OFFSET.get(config["model_type"], 0)
    named = _optional(path / "sentence_bert_config.json").get("max_seq_length")
    return min(positions, named) if isinstance(named, int) and named > 0 else positions


def _count(file: Path) -> int:
    """The weights in a safetensors file, by its header; positions and other whole numbers are none."""
    try:
        with file.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            if size > file.stat().st_size:
                raise ValueError("its header does not end")
            header = json.loads(opened.read(size))
        rows = [row for name, row in header.items() if name != "__metadata__"]
        return sum(math.prod(row["shape"]) for row in rows if not str(row["dtype"]).startswith(("I", "U")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelCorrupt(f"{file.name} cannot be read", why=str(error)) from error


def _optional(path: Path) -> Mapping[str, Any]:
    return read_json(path) if path.is_file() else {}
