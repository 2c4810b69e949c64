"""Chat templates, rendered in a sandbox: they come with the model and are not trusted."""

import json
from collections.abc import Mapping, Sequence, Sized
from datetime import datetime
from typing import Any, Final, Never

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edgeai.errors import ModelUnsupported
from edgeai.types import Message, Tool

__all__ = ["CHATML", "ChatTemplate", "as_dicts"]

CHATML: Final = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""For models that have ChatML's tokens and no template."""

_MAX_PRODUCT: Final = 1_000_000

_TEMPLATE_FAULTS: Final = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What a faulty template can raise while it runs: it is code of its own."""


class ChatTemplate:
    """One compiled template. Raises ModelUnsupported when it cannot be compiled."""

    def __init__(self, source: str, *, bos: str = "", eos: str = "") -> None:
        self.source = source
        self._tokens = {"bos_token": bos, "eos_token": eos}
        try:
            self._template = _Sandbox().from_string(source)
        except _TEMPLATE_FAULTS as error:
            raise _unusable(error) from error

    @property
    def knows_tools(self) -> bool:
        """Whether the template itself lists tools."""
        return "tools" in self.source

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """The prompt, up to where the assistant speaks.

        Raises ModelUnsupported with the template's own reason, also when it tries to leave the sandbox.
        """
        try:
            return self._template.render(
                messages=messages, tools=list(tools) or None, add_generation_prompt=True, **self._tokens
            )
        except _TEMPLATE_FAULTS as error:
            raise _unusable(error) from error


def as_dicts(messages: Sequence[Message], tools: Sequence[Tool] = ()) -> tuple[list[Any], list[Any]]:
    """Messages and tools in the form that templates expect.

    Raises ModelUnsupported for images.
    """
    if any(message.images for message in messages):
        raise ModelUnsupported("This model cannot see images", remedy="Use a cloud model for this query")
    return [_message(message) for message in messages], [_tool(tool) for tool in tools]


def _message(message: Message) -> dict[str, Any]:
    fields: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.tool_calls:
        fields["tool_calls"] = [
            {"type": "function", "id": call.id, "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        fields["tool_call_id"] = message.tool_call_id
    return fields


def _tool(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


class _Sandbox(ImmutableSandboxedEnvironment):
    """As transformers renders templates, and without products that fill the memory."""

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        self.filters["tojson"] = _tojson
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now

    def call_binop(self, context: Context, operator: str, left: object, right: object) -> object:
        size = max((len(side) for side in (left, right) if isinstance(side, Sized)), default=0)
        factors = [abs(side) for side in (left, right) if isinstance(side, int | float)]
        if operator == "**" and max(factors, default=0) > 1000:
            raise SecurityError("the template computes a power that is too large")
        if operator == "*" and size * max(factors, default=0) > _MAX_PRODUCT:
            raise SecurityError("the template makes a text that is too long")
        return super().call_binop(context, operator, left, right)


def _tojson(
    value: object,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002  # templates may give it by position
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002  # as above
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
        default=dict,
    )


def _raise_exception(message: str) -> Never:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _unusable(error: Exception) -> ModelUnsupported:
    return ModelUnsupported(
        "The model's chat template cannot be used for these messages",
        why=str(error) or type(error).__name__,
        remedy="Check the order and roles of the messages, or use another model",
    )
