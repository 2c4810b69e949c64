"""Encoders to ONNX by optimum's exporter, and in transformers itself: needs the extra ``optimum``."""

import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeai.converters.encoder import Encoder
from edgeai.errors import MissingExtra, ModelUnsupported

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["export_encoder", "reference"]

_TASKS = {"embedding": "feature-extraction", "classification": "text-classification"}


def export_encoder(
    source: Encoder, folder: Path, *, tokens: int | None = None, step: Callable[[], None] = lambda: None
) -> Path:
    """Write the graph into ``folder``, which is made; ``tokens``: of this length only, for one text.

    The attention is in plain operators. ``step`` is called when the model is loaded, and when it is
    exported. Raises MissingExtra, ModelUnsupported for what optimum refuses.
    """
    exporter = _import("optimum.exporters.onnx")
    shapes = {} if tokens is None else {"batch_size": 1, "sequence_length": tokens}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer, about what is meant
        try:
            model = load(source)
            step()
            exporter.onnx_export_from_model(
                model,
                folder,
                task=_TASKS[source.head.task],
                do_validation=False,
                no_dynamic_axes=tokens is not None,
                **shapes,
            )
        except (ValueError, NotImplementedError, KeyError, RuntimeError) as error:
            raise ModelUnsupported(f"optimum cannot export {source.name}", why=str(error)[:400]) from error
    step()
    return folder / "model.onnx"


def load(source: Encoder) -> Any:  # noqa: ANN401  # a model of transformers, which has no types here
    """The model in transformers, ready to run; no code of the source's own is run, and no pickle read."""
    transformers = _import("transformers")
    kind = {"embedding": "AutoModel", "classification": "AutoModelForSequenceClassification"}
    try:
        return (
            getattr(transformers, kind[source.head.task])
            .from_pretrained(
                source.path,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                attn_implementation="eager",
                dtype="float32",
            )
            .eval()
        )
    except (ValueError, OSError, KeyError) as error:
        raise ModelUnsupported(f"transformers cannot load {source.name}", why=str(error)[:400]) from error


def reference(
    source: Encoder, rows: Sequence[Sequence[int]], step: Callable[[], None] = lambda: None
) -> "list[NDArray[np.float32]]":
    """What transformers computes for each row of token ids, one at a time: states or logits, in floats."""
    torch, model = _import("torch"), load(source)
    found = []
    with torch.inference_mode():
        for row in rows:
            out = model(
                input_ids=torch.tensor([row]), attention_mask=torch.ones(1, len(row), dtype=torch.long)
            )
            kept = out.logits if source.head.task == "classification" else out.last_hidden_state
            found.append(np.asarray(kept[0].numpy(), np.float32))
            step()
    return found


def _import(name: str) -> Any:  # noqa: ANN401  # an untyped library
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtra(
            "Converting an encoder needs optimum-onnx, transformers and torch",
            extra="optimum",
            why=str(error),
        ) from error
