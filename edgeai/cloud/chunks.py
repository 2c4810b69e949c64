"""From chat completion chunks to pieces of an answer. Nothing a server sends is trusted to have its type."""

import json
from dataclasses import dataclass
from typing import Any, NoReturn

from edgeai.cloud import CloudEnd, CloudText
from edgeai.errors import CloudProtocol
from edgeai.net import quote
from edgeai.types import FinishReason, ToolCall, Usage

_FINISHED: dict[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",  # some servers' word for it
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}


@dataclass(slots=True)
class _OpenCall:
    """A tool call whose arguments are still arriving."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class ChunkDecoder:
    """Feed it each event's data in order, then call `end`. Raises CloudProtocol; keeps no text.

    ``secrets`` are struck out of what the errors quote.
    """

    def __init__(self, secrets: tuple[str, ...] = ()) -> None:
        self._secrets = secrets
        self._has_text = False
        self._finish: str | None = None
        self._usage = Usage()
        self._calls: list[_OpenCall] = []

    def feed(self, data: str) -> list[CloudText]:
        """The text in this event, if there is any."""
        if data == "[DONE]":
            return []
        chunk = self._parse(data)
        if isinstance(usage := chunk.get("usage"), dict):
            self._usage = read_usage(usage)
        texts = [
            self._choice(choice) for choice in self._list(chunk.get("choices")) if not choice.get("index")
        ]
        return [CloudText(text) for text in texts if text]

    def end(self) -> CloudEnd:
        """The stream is over: the last piece."""
        calls = tuple(self._tool_call(call, at) for at, call in enumerate(self._calls))
        if self._finish is None:
            raise CloudProtocol("The answer broke off", why="The stream ended without a finish reason")
        finish = _FINISHED.get(self._finish)
        if finish is None:
            self._bad(f"The provider ended the answer by {quote(self._finish)!r}")
        if not self._has_text and not calls:
            why = "max_tokens was used up before any text" if finish == "length" else None
            raise CloudProtocol("The cloud's answer is empty", why=why)
        return CloudEnd(finish_reason="tool_calls" if calls else finish, usage=self._usage, tool_calls=calls)

    def _parse(self, data: str) -> dict[str, Any]:
        try:
            chunk = json.loads(data)
        except (ValueError, RecursionError):
            self._bad("The answer is not JSON", data)
        if not isinstance(chunk, dict):
            self._bad("The answer is not a chat completion", data)
        if error := chunk.get("error"):
            message = error.get("message") if isinstance(error, dict) else None
            self._bad("The provider broke the answer off with an error", str(message or error))
        return chunk

    def _choice(self, choice: dict[str, Any]) -> str:
        delta = choice.get("delta") or {}
        if not isinstance(delta, dict):
            self._bad("The answer is not a chat completion", str(choice))
        if refusal := delta.get("refusal"):
            self._bad("The model refused to answer", str(refusal))
        text = delta.get("content") or ""
        calls = self._list(delta.get("tool_calls"))
        if not isinstance(text, str) or (self._finish and (text or calls)):
            self._bad("The answer is not a chat completion, or goes on after its end", str(choice))
        for at, call in enumerate(calls):
            self._tool_delta(call, at)
        self._has_text = self._has_text or bool(text)
        self._finish = self._finish or _text(choice.get("finish_reason")) or None
        return text

    def _tool_delta(self, delta: dict[str, Any], at: int) -> None:
        index, name_and_arguments = delta.get("index"), delta.get("function")
        index = index if isinstance(index, int) else at
        function = name_and_arguments if isinstance(name_and_arguments, dict) else {}
        call = self._open_call(index, _text(delta.get("id")))
        call.name += _text(function.get("name"))
        call.arguments += _text(function.get("arguments"))

    def _open_call(self, index: int, id: str) -> _OpenCall:
        """The call that a delta goes on with, or a new one: some servers give all calls the same index."""
        for call in reversed(self._calls):
            if call.index == index and (not id or id == call.id):
                return call
        self._calls.append(_OpenCall(index, id))
        return self._calls[-1]

    def _tool_call(self, call: _OpenCall, at: int) -> ToolCall:
        try:
            arguments = json.loads(call.arguments or "{}")
        except (ValueError, RecursionError):
            arguments = None
        if not call.name or not isinstance(arguments, dict):
            self._bad("A tool call has no name, or arguments that are not a JSON object", call.arguments)
        return ToolCall(name=call.name, arguments=arguments, id=call.id or f"call_{at}")

    def _list(self, value: object) -> list[dict[str, Any]]:
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self._bad("The answer is not a chat completion", str(value))
        return value

    def _bad(self, what: str, said: str = "") -> NoReturn:
        raise CloudProtocol(what, why=quote(said, self._secrets) or None)


def read_usage(usage: dict[str, Any]) -> Usage:
    """The token counts of a usage object; None where one is missing or no count."""
    prompt, details = _count(usage.get("prompt_tokens")), usage.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
    if cached is not None and prompt is not None:
        cached = min(cached, prompt)
    return Usage(
        prompt_tokens=prompt, completion_tokens=_count(usage.get("completion_tokens")), cached_tokens=cached
    )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
