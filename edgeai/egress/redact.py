"""Secrets out, placeholders in: ``<EMAIL_1>``, the same one for the same text wherever it occurs."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from edgeai.egress.found import Span
from edgeai.egress.labels import Privacy
from edgeai.errors import PrivacyViolation
from edgeai.types import Image, Message, Text, Tool, ToolCall

_WRITTEN = re.compile(r"([A-Za-z]+(?:[\\_ -]{0,2}[A-Za-z]+){0,3})[\\_ -]{0,2}(\d{1,9})")


class Vault:
    """The secrets of one query, by their placeholders. It stays on the device.

    ``find`` recognises secrets; ``texts`` are all texts of the query: a placeholder that stands in one of
    them already is not given to a secret.
    """

    def __init__(self, find: Callable[[str], list[Span]], texts: Iterable[str]) -> None:
        self._find = find
        self._taken = {name for text in texts for name in _written(text)}
        self._known: dict[tuple[str, str], str] = {}
        self._spans: dict[str, list[Span]] = {}
        self._last: Counter[str] = Counter()
        self.originals: dict[str, str] = {}

    def redact(self, text: str) -> str:
        """The text with each secret replaced."""
        pieces: list[str] = []
        done = 0
        for start, end, kind in self._found(text):
            pieces += text[done:start], self._placeholder(kind, text[start:end])
            done = end
        return "".join((*pieces, text[done:]))

    def share(self, text: str) -> float:
        """How much of a text's characters would be replaced, blanks not counted; 0 to 1."""
        solid = sum(not character.isspace() for character in text)
        replaced = sum(
            not character.isspace() for start, end, _ in self._found(text) for character in text[start:end]
        )
        return replaced / solid if solid else 0.0

    def redact_json(self, value: Any) -> Any:  # noqa: ANN401  # JSON, of any shape
        """A JSON value with the secrets in its strings, keys too, replaced."""
        if isinstance(value, str):
            return self.redact(value)
        if isinstance(value, Mapping):
            return {self.redact(str(key)): self.redact_json(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.redact_json(item) for item in value]
        if isinstance(value, int | float) and not isinstance(value, bool) and self._found(str(value)):
            return self.redact(str(value))
        return value

    def refuse(self, text: str, what: str) -> str:
        """The text as it is, where a placeholder cannot stand. Raises PrivacyViolation if it has a secret."""
        if found := self._found(text):
            raise PrivacyViolation(f"{what} holds a secret ({found[0][2]}) that cannot be replaced there")
        return text

    def _found(self, text: str) -> list[Span]:
        if text not in self._spans:
            self._spans[text] = self._find(text)
        return self._spans[text]

    def _placeholder(self, kind: str, original: str) -> str:
        key = (kind, original)
        if key not in self._known:
            self._last[kind] += 1
            while (kind, self._last[kind]) in self._taken:
                self._last[kind] += 1
            self._known[key] = f"<{kind}_{self._last[kind]}>"
            self.originals[self._known[key]] = original
        return self._known[key]


def redact_message(message: Message, verdicts: tuple[Privacy, ...], vault: Vault) -> Message:
    """The message with the secrets of the parts that are to be redacted replaced.

    Neighbouring texts are read as one, as the cloud will. Raises PrivacyViolation for an image that would
    have to be redacted, which cannot be done.
    """
    if "redact" not in verdicts:
        return message
    if isinstance(message.content, str):
        content: str | tuple[Text | Image, ...] = vault.redact(message.content)
    else:
        content = tuple(_redact_parts(list(zip(message.content, verdicts, strict=True)), vault))
    calls = tuple(redact_call(call, vault) for call in message.tool_calls)
    if message.tool_call_id is not None:
        vault.refuse(message.tool_call_id, "The id of a tool call")
    return replace(message, content=content, tool_calls=calls)


def redact_call(call: ToolCall, vault: Vault) -> ToolCall:
    """The call with the secrets in its arguments replaced."""
    vault.refuse(call.name, "The name of a tool")
    vault.refuse(call.id, "The id of a tool call")
    return replace(call, arguments=vault.redact_json(call.arguments))


def redact_tool(tool: Tool, vault: Vault) -> Tool:
    """The tool with the secrets in its description and its schema replaced."""
    return replace(
        tool,
        name=vault.refuse(tool.name, "The name of a tool"),
        description=vault.redact(tool.description),
        parameters=vault.redact_json(tool.parameters),
    )


def texts_of(message: Message) -> list[str]:
    """All that a message says, as one text for each place a secret may be in."""
    return [message.text, *(json.dumps(dict(c.arguments), ensure_ascii=False) for c in message.tool_calls)]


def _redact_parts(parts: list[tuple[Text | Image, Privacy]], vault: Vault) -> Iterable[Text | Image]:
    waiting: list[Text] = []
    for part, verdict in parts:
        if isinstance(part, Text) and verdict == "redact":
            waiting.append(part)
            continue
        if verdict == "redact":
            raise PrivacyViolation(
                "An image cannot be redacted", remedy="Give it a label whose rule allows it, or leave it out"
            )
        yield from _joined(waiting, vault)
        waiting = []
        yield part
    yield from _joined(waiting, vault)


def _joined(texts: list[Text], vault: Vault) -> list[Text]:
    return [Text(vault.redact("".join(part.text for part in texts)))] if texts else []


def _written(text: str) -> Iterable[tuple[str, int]]:
    """What reads as a placeholder already, however it is spelled."""
    for found in _WRITTEN.finditer(text):
        words = re.split(r"[\\_ -]+", found[1].upper())
        yield from (("_".join(words[at:]), int(found[2])) for at in range(len(words)))
