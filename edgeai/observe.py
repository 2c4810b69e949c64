"""Answers with everything that was seen of them: the recordings that a calibration is made from.

They come the very way that answers are served, so that what was calibrated is what runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack, cast

from edgeai.binding import Method, binding
from edgeai.drive import Stream
from edgeai.edge import Edge
from edgeai.errors import ConfigError
from edgeai.monitor.examples import Observation
from edgeai.policy import Policy
from edgeai.session import Session
from edgeai.types import FIELDS, Answer, CallOptions, CommonOptions, JsonSchema, LabelScores, Prompt

if TYPE_CHECKING:
    from edgeai.call import Call
    from edgeai.monitor.contract import Binding

__all__ = ["Observed", "observe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The device's answer, what was seen while it was made, and what it is valid for.

    ``labels`` are the measurements of a `choose`: `edgeai.monitor.watch.label_observation` gives the
    observation, and so the label, that they would have led to with another strength of the correction.
    """

    answer: Answer
    seen: Observation
    binding: "Binding"
    labels: LabelScores | None = None


def observe(
    edge: Edge | Session,
    prompt: Prompt,
    *,
    method: Method = "ask",
    choices: Sequence[str] = (),
    examples: Sequence[tuple[str, str]] = (),
    fields: tuple[str, str] = FIELDS,
    schema: type[Any] | JsonSchema | None = None,
    **options: Unpack[CommonOptions],
) -> Observed:
    """Answer ``prompt`` on the device, as `Edge.ask`, `choose` or `extract` would, and watch closely.

    The policy's rules about leaving do not apply, nothing is sent and nothing goes on record. Raises
    ConfigError for arguments that do not belong to the method, and what the method raises on the device.
    """
    _check(method, choices, examples, schema, options)
    if method != "choose" and fields != FIELDS:
        raise ConfigError(f"{method} takes no fields", remedy="Use method='choose'")
    session = edge._session if isinstance(edge, Edge) else edge
    watcher = replace(session, policy=Policy(), cloud=None, ledger=None, watching=True)
    if method == "choose":
        call = watcher.classification(prompt, choices, examples, options, fields)[0]
    else:
        call = _call(watcher, prompt, method, schema, options)
    answer = Stream(call).answer()
    run = call.run
    assert run.monitor.seen is not None  # the watcher watches
    return Observed(
        answer=answer,
        seen=run.monitor.seen,
        binding=binding(session.engine.info, session.weights, run.request, method),
        labels=run.monitor.labels,
    )


def _call(
    watcher: Session,
    prompt: Prompt,
    method: Method,
    schema: type[Any] | JsonSchema | None,
    options: CommonOptions,
) -> "Call":
    if schema is not None and method == "extract":
        return watcher.extraction(prompt, schema, options)[0]
    return watcher.question(prompt, cast("CallOptions", {**options, "schema": schema}))


def _check(
    method: str,
    choices: Sequence[str],
    examples: Sequence[object],
    schema: object,
    options: CommonOptions,
) -> None:
    if options.get("policy") is not None:
        raise ConfigError("observe takes no policy", why="It answers on the device, whatever a policy says")
    if method not in ("ask", "choose", "extract"):
        raise ConfigError(f"method is {method!r}", remedy="Use 'ask', 'choose' or 'extract'")
    if method != "choose" and (choices or examples):
        raise ConfigError(f"{method} takes neither choices nor examples", remedy="Use method='choose'")
    if method == "choose" and schema is not None:
        raise ConfigError("choose takes no schema")
    if method == "extract" and schema is None:
        raise ConfigError("extract needs a schema")
