"""From a call's keywords to a Request: everything is checked before work starts."""

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Unpack, get_args

from edgeai.errors import ConfigError
from edgeai.policy import Policy
from edgeai.types import (
    CallOptions,
    CommonOptions,
    Image,
    JsonSchema,
    Message,
    Priority,
    Prompt,
    Request,
    Role,
    Sampling,
    Text,
    Tool,
)

L = TypeVar("L", bound=Callable[..., object])

MAX_STOPS = 64
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "seed")


def read_request(prompt: Prompt, system: str | None = None, **options: Unpack[CallOptions]) -> Request:
    """The request that a prompt and a call's keywords ask for.

    Raises ConfigError for an unknown keyword (with the nearest known one), a value out of range, an empty
    prompt, or text that is not valid Unicode.
    """
    known = CallOptions.__annotations__
    for name in options:
        if name not in known:
            raise ConfigError(f"Unknown option {name!r}", remedy=nearest(name, known))
    values: dict[str, Any] = {k: v for k, v in options.items() if k not in (*_SAMPLING, "policy")}
    sampling: dict[str, Any] = {k: v for k, v in options.items() if k in _SAMPLING}
    values["sampling"] = Sampling(**sampling)
    values["stop"] = _texts("stop", values.get("stop") or ())
    values["tools"] = _tools(values.get("tools") or ())
    values["schema"] = json_schema(values.get("schema"))
    request = Request(messages=read_messages(prompt, system), **values)
    _check(request)
    return request


def read_policy(default: Policy, options: CommonOptions) -> Policy:
    """The call's own policy if it has one, else the Edge's."""
    policy = options.get("policy")
    return default if policy is None else check_policy(policy)


def check_policy(policy: Policy) -> Policy:
    """The policy, if it is one. Raises ConfigError."""
    if not isinstance(policy, Policy):
        raise ConfigError(f"policy is a {type(policy).__name__}, expected a Policy")
    return policy


def check_listener(listener: L) -> L:
    """The listener, if it can be called. Raises ConfigError."""
    if not callable(listener):
        raise ConfigError(f"The listener is a {type(listener).__name__}", remedy="Give a function")
    return listener


def read_system(system: str | None) -> list[Message]:
    """What a conversation begins with. Raises ConfigError."""
    if system is None:
        return []
    if not isinstance(system, str):
        raise ConfigError(f"system is a {type(system).__name__}, expected a text")
    return [Message("system", system)]


def read_messages(prompt: Prompt, system: str | None = None) -> tuple[Message, ...]:
    """A string as one user message; a list of messages as it is, checked."""
    if not isinstance(prompt, str | Sequence) or isinstance(prompt, bytes):
        raise ConfigError(
            f"The prompt is a {type(prompt).__name__}", remedy="Give a text or a list of Message"
        )
    messages = (Message("user", prompt),) if isinstance(prompt, str) else tuple(prompt)
    if system is not None:
        messages = (Message("system", system), *messages)
    if not messages:
        raise ConfigError("The prompt has no messages", remedy="Give a text or a list of Message")
    for message in messages:
        _check_message(message)
    last = messages[-1]
    if not last.text.strip() and not last.images:
        raise ConfigError("The prompt is empty", remedy="Ask something")
    return messages


def warm_request(
    system: str | None, messages: Sequence[Message], tools: Sequence[Tool], adapter: str | None
) -> Request:
    """What stands for the head of later prompts. Raises ConfigError when it is empty or malformed."""
    if not messages and system is None:
        raise ConfigError("There is nothing to warm", remedy="Give a system text, or messages")
    turns = messages if system is None else (Message("system", system), *messages)
    request = Request(messages=read_messages(turns), tools=_tools(tools), adapter=adapter)
    _check(request)
    return request


def read_adapters(adapters: Mapping[str, str | Path]) -> dict[str, Path]:
    """Names and files of LoRA adapters. Raises ConfigError."""
    if not isinstance(adapters, Mapping) or not all(
        isinstance(name, str) and name and isinstance(path, str | Path) for name, path in adapters.items()
    ):
        raise ConfigError(f"adapters is {adapters!r}", remedy='Give a dict, as {"support": "support.gguf"}')
    return {name: Path(path).expanduser() for name, path in adapters.items()}


def json_schema(schema: JsonSchema | type[Any] | None) -> JsonSchema | None:
    """A JSON schema from itself or from a pydantic model class."""
    if schema is None or isinstance(schema, Mapping):
        return schema
    if hasattr(schema, "model_json_schema"):
        made: JsonSchema = schema.model_json_schema()
        return made
    raise ConfigError(f"schema is {schema!r}, expected a JSON schema (a dict) or a pydantic model class")


def schema_parser(schema: JsonSchema | type[Any]) -> Callable[[str], Any]:
    """What turns an answer into a value, raising ValueError when it does not fit."""
    if not isinstance(schema, Mapping):
        validate: Callable[[str], Any] = schema.model_validate_json  # pydantic's classmethod
        return validate

    def parse(text: str) -> Any:  # noqa: ANN401  # whatever the schema describes
        from jsonschema import ValidationError
        from jsonschema.validators import validator_for
        from referencing import Registry

        value, kind = json.loads(text), validator_for(schema)
        try:
            kind(schema, registry=Registry()).validate(value)  # an empty registry fetches nothing
        except ValidationError as error:
            raise ValueError(error.message) from None
        return value

    return parse


def nearest(name: str, known: Sequence[str] | Mapping[str, object]) -> str:
    """A remedy for a misspelled name: the nearest known one, or all of them."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {close[0]!r}?" if close else f"Known are: {', '.join(sorted(known))}"


def _check_message(message: Message) -> None:
    if not isinstance(message, Message):
        raise ConfigError(f"A message is a {type(message).__name__}, expected edgeai.Message")
    if message.role not in get_args(Role):
        raise ConfigError(
            f"A message's role is {message.role!r}", remedy=nearest(message.role, get_args(Role))
        )
    if not isinstance(message.content, str | Sequence) or not (
        isinstance(message.content, str) or all(isinstance(part, Text | Image) for part in message.content)
    ):
        raise ConfigError("A message's content is neither a text nor a list of Text and Image")
    parts = () if isinstance(message.content, str) else message.content
    for item in (message, *parts):
        if not isinstance(item.private, bool) or not isinstance(item.label, str | None):
            raise ConfigError("A message's private is no bool, or its label no text")
    try:
        message.text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"The prompt is not valid Unicode: {error.reason} at character {error.start}",
            remedy='Decode your bytes with errors="replace"',
        ) from None


def _texts(name: str, value: str | Sequence[str]) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Sequence) else (value,)
    if len(texts) > MAX_STOPS or not all(isinstance(text, str) and text for text in texts):
        raise ConfigError(f"{name} is {str(value)[:80]!r}, expected up to {MAX_STOPS} non-empty strings")
    return texts


def _tools(value: Sequence[Tool]) -> tuple[Tool, ...]:
    if not isinstance(value, Sequence) or not all(isinstance(tool, Tool) for tool in value):
        raise ConfigError(f"tools is {value!r}, expected a list of Tool")
    return tuple(value)


def _check(request: Request) -> None:
    sampling = request.sampling
    for name, count in (
        ("max_tokens", request.max_tokens),
        ("top_k", sampling.top_k),
        ("hold", request.hold or 0),
    ):
        if not isinstance(count, int) or isinstance(count, bool):
            raise ConfigError(f"{name} is {count!r}, expected a whole number")
    seed = sampling.seed
    if seed is not None and (not isinstance(seed, int) or seed < 0):
        raise ConfigError(f"seed is {seed!r}, expected a whole number, 0 or more")
    if request.adapter is not None and not isinstance(request.adapter, str):
        raise ConfigError(f"adapter is {request.adapter!r}, expected the name of one")
    if request.task is not None and not isinstance(request.task, str):
        raise ConfigError(f"task is {request.task!r}, expected a text")
    if request.grammar is not None and not isinstance(request.grammar, str):
        raise ConfigError(f"grammar is {request.grammar!r}, expected a text in llguidance's Lark dialect")
    _in_range("max_tokens", request.max_tokens, 1, 1_000_000)
    _in_range("temperature", sampling.temperature, 0, 10)
    _in_range("top_p", sampling.top_p, 1e-6, 1)
    _in_range("min_p", sampling.min_p, 0, 1)
    _in_range("top_k", sampling.top_k, 0, 1_000_000)
    _in_range("hold", request.hold or 0, 0, 1_000_000)
    check_priority(request.priority)
    constraints = [n for n in ("schema", "grammar", "tools") if getattr(request, n) not in (None, ())]
    if len(constraints) > 1:
        raise ConfigError(f"{' and '.join(constraints)} cannot be combined", remedy="Give one of them")


def check_priority(priority: str) -> None:
    """Raise ConfigError for what is none."""
    if priority not in get_args(Priority):
        raise ConfigError(f"priority is {priority!r}, expected 'interactive' or 'background'")


def _in_range(name: str, value: float, low: float, high: float) -> None:
    if not isinstance(value, int | float) or not low <= value <= high:
        raise ConfigError(f"{name} is {value!r}, expected a number from {low:g} to {high:g}")
