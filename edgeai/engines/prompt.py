"""From a request to token ids, so that nothing in a message can act as a control token."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from edgeai.engines.template import CHATML, ChatTemplate, as_dicts
from edgeai.engines.tools import with_tool_text
from edgeai.engines.vocabulary import Vocabulary
from edgeai.errors import ConfigError, ModelUnsupported
from edgeai.types import Request

__all__ = ["chat_template", "prompt_tokens"]

_MARK: Final = re.compile("\x1a([0-9]+)\x1a")
"""Stands for the content of one message while a template is rendered."""


def chat_template(model: Vocabulary) -> ChatTemplate | None:
    """The model's template, ChatML where only its tokens are known, None where not even they are."""
    source = model.chat_template
    if source is None and len(model.tokenize("<|im_start|>", special=True)) == 1:
        source = CHATML
    if source is None:
        return None
    return ChatTemplate(source, bos=model.name_of(model.bos), eos=model.name_of(model.eos))


def prompt_tokens(model: Vocabulary, template: ChatTemplate | None, request: Request) -> list[int]:
    """The request's prompt as token ids.

    Raises ConfigError when it is empty, ModelUnsupported without a template and for images.
    """
    if template is None:
        raise ModelUnsupported("The model has no chat template", remedy="Use an instruction-tuned model")
    messages = request.messages
    if not any(message.text.strip() or message.images or message.tool_calls for message in messages):
        raise ConfigError("The prompt is empty", remedy="Ask something")
    if request.tools and not template.knows_tools:
        messages = with_tool_text(messages, request.tools)
    dicts, tools = as_dicts(messages, request.tools if template.knows_tools else ())
    tools = _defused(model, tools)
    dicts = [{k: v if k == "content" else _defused(model, v) for k, v in d.items()} for d in dicts]
    text = template.render(dicts, tools)
    ids = model.tokenize(text, special=True)
    parts = _parts(template, dicts, tools, text)
    if parts is None:
        ids = model.tokenize(template.render(_defused(model, dicts), tools), special=True)
    else:
        safe = [i for part, trusted in parts for i in model.tokenize(part, special=trusted)]
        if _controls(model, safe) != _controls(model, ids):  # a message spells a control token
            ids = safe
    return [model.bos, *ids] if model.add_bos and ids[:1] != [model.bos] else ids


def _controls(model: Vocabulary, ids: Sequence[int]) -> int:
    return sum(token in model.control for token in ids)


def _parts(
    template: ChatTemplate, dicts: Sequence[Mapping[str, Any]], tools: Sequence[Any], text: str
) -> list[tuple[str, bool]] | None:
    """``text`` in pieces, each with whether it comes from the template and not from a message.

    None when the template does more with contents than trimming them, so that they cannot be told apart.
    """
    contents = [message["content"] for message in dicts]
    marked = [{**message, "content": f"\x1a{i}\x1a"} for i, message in enumerate(dicts)]
    try:
        pieces = _MARK.split(template.render(marked, tools))
    except ModelUnsupported:  # it looks into contents, and does not like the marks
        return None
    if any(int(i) >= len(contents) for i in pieces[1::2]):
        return None
    parts, at = [(pieces[0], True)], len(pieces[0])
    for number, after in zip(pieces[1::2], pieces[2::2], strict=True):
        content = contents[int(number)]
        forms = (content, content.strip(), content.lstrip(), content.rstrip())
        form = next((form for form in forms if text.startswith(form + after, at)), None)
        if form is None:
            return None
        parts += [(form, False), (after, True)]
        at += len(form) + len(after)
    return parts if "".join(part for part, _ in parts) == text else None


def _defused(model: Vocabulary, value: Any) -> Any:  # noqa: ANN401  # as templates take it: JSON
    """The value with every control token that is spelled in its texts broken by an invisible space."""
    if isinstance(value, str):
        return _broken(model, value)
    if isinstance(value, Mapping):
        return {_defused(model, key): _defused(model, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_defused(model, item) for item in value]
    return value


def _broken(model: Vocabulary, text: str) -> str:
    while True:
        found = {token for token in model.tokenize(text, special=True) if token in model.control}
        before = text
        for name in map(model.name_of, found):
            if len(name) > 1:
                text = text.replace(name, f"{name[0]}\u200b{name[1:]}")
        if text == before:
            return text
