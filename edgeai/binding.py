"""What exactly answers a query: the facts that a contract is bound to, of one request on one engine."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from edgeai.choose import CONTENT_FREE, open_line
from edgeai.engines import EngineInfo
from edgeai.types import FIELDS, Message, Request

if TYPE_CHECKING:
    from edgeai.models.store import InstalledModel
    from edgeai.monitor.contract import Binding

__all__ = ["Method", "binding", "form_hash", "weights_hash", "weights_of_info"]

Method = Literal["ask", "choose", "extract"]


def binding(
    info: EngineInfo, weights: str, request: Request, method: Method, cloud: str | None = None
) -> "Binding":
    """The facts as they are now, for `Contract.matches`. ``weights`` is the hash of the model's files.

    ``cloud`` is the cloud's model, if there is one. An `ask` with a schema is asked and answered as an
    `extract` is, so its method is that.

    A classification uses neither chat template nor sampling: its template is the form of its lines, and the
    rest is the same for all of them.
    """
    from edgeai.monitor.contract import Binding  # loads numpy

    scored = method == "choose"
    return Binding(
        method="extract" if method == "ask" and request.schema is not None else method,
        task=request.task,
        engine=_engine(info),
        weights=_adapted(weights, info, request.adapter),
        template=form_hash() if scored else info.template_hash,
        head=_head_hash(request),
        temperature=0.0 if scored else float(request.sampling.temperature),
        max_tokens=1 if scored else request.max_tokens,
        schema=None if request.schema is None else _hash(_in_order(request.schema)),
        cloud=cloud,
    )


def _engine(info: EngineInfo) -> str:
    """The engine; with the devices, if others than the processor have a part in answers."""
    answers = (s for s in info.steps if s.why is None and s.provider != "cpu" and s.work != "embed")
    return ", ".join([info.engine, *(f"{step.work} on {step.provider}" for step in answers)])


def _adapted(weights: str, info: EngineInfo, adapter: str | None) -> str:
    """What stands for the weights under an adapter: those of both."""
    return weights if adapter is None else _hash([weights, info.adapters.get(adapter)])


def form_hash() -> str:
    """What stands for the template of a classification: the form of its lines, and what has no content."""
    return _hash([open_line("{}", FIELDS), CONTENT_FREE])


def weights_hash(model: "InstalledModel") -> str:
    """The SHA-256 of the model's file, or of all names and hashes of a package with several."""
    files = {file.path: file.sha256 for file in model.manifest.files}
    if len(files) == 1 and (sha := model.manifest.weights.sha256):
        return sha
    return _hash(files)


def weights_of_info(info: EngineInfo) -> str:
    """What stands for the weights of an engine that the app brought itself: the description it gives."""
    return _hash([info.engine, info.model, info.parameters, info.quantization, info.n_vocab])


def _head_hash(request: Request) -> str | None:
    """The hash of all that is fixed around the question, None when there is nothing.

    Earlier turns and whatever else shapes an answer are part of it: a contract does not cover them unless
    they were the same at calibration.
    """
    fixed = {
        "system": [turn.text for turn in request.messages if turn.role == "system"],
        "turns": _turns(request.messages),
        "choices": request.choices,
        "examples": request.examples,
        "fields": request.fields if request.choices and request.fields != FIELDS else None,
        "tools": [[tool.name, tool.description, _in_order(tool.parameters)] for tool in request.tools],
        "grammar": request.grammar,
        "stop": request.stop,
        "sampling": _sampling(request),
    }
    present = {name: value for name, value in fixed.items() if value}
    return _hash(present) if present else None


def _turns(messages: tuple[Message, ...]) -> list[list[str]]:
    """What was said before the question, and that there are images; nothing for a single question of text."""
    turns = [message for message in messages if message.role != "system"]
    said: list[list[str]] = [[message.role, message.text] for message in turns[:-1]]
    asked: list[list[str]] = [[message.role] for message in turns[-1:] if message.role != "user"]
    images = [["image"]] if any(message.images for message in messages) else []
    return [*said, *asked, *images]


def _sampling(request: Request) -> list[float]:
    """What shapes the draw beside the temperature; without one nothing does."""
    drawn = request.sampling
    shape = [drawn.top_p, drawn.top_k, drawn.min_p]
    return shape if drawn.temperature and shape != [1.0, 0, 0.0] else []


def _in_order(schema: object) -> str:
    """The schema with its properties as they stand: constrained decoding writes them in that order."""
    return json.dumps(_plain(schema), ensure_ascii=False, default=repr)


def _plain(value: object) -> object:
    """Mappings as dicts, so that JSON takes them."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _hash(value: object) -> str:
    import hashlib

    text = json.dumps(_plain(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=repr)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
