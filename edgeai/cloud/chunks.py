"""From chat completion chunks to pieces of an answer. Nothing a server sends is trusted to have its type."""

import json
from dataclasses import dataclass
from typing import Any, NoReturn

from edgeai.cloud import CloudEnd, CloudText
from edgeai.cloud.wire import Refused, count, fault, total
from edgeai.errors import CloudProtocol, CloudRefused
from edgeai.net import quote
from edgeai.types import FinishReason, ToolCall, Usage

_FINISHED: dict[str, FinishReason | Refused] = {
    "stop": "stop",
    "eos": "stop",  # some servers' word for it
    "length": "length",
    "model_length": "length",  # Mistral's, at the context's end
    "content_filter": "refused",
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
    """Feed it each event's data in order, then call `end`. Keeps no text.

    Raises CloudProtocol, CloudRefused, and the leaf that fits an error which the server reports.

    ``secrets`` are struck out of what the errors quote.
    """

    def __init__(self, secrets: tuple[str, ...] = ()) -> None:
        self._secrets = secrets
        self._has_text = False
        self._finish: str | None = None
        self._usage = Usage()
        self._calls: list[_OpenCall] = []

    def feed(self, data: str, event: str = "message") -> list[CloudText]:
        """The text in this event, if there is any; a whole answer in one document is read, too."""
        if data == "[DONE]":
            return []
        chunk = self._parse(data)
        groq = chunk.get("x_groq")
        usage = chunk.get("usage") or (groq.get("usage") if isinstance(groq, dict) else None)
        if isinstance(usage, dict):
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
        if finish == "refused":
            raise CloudRefused("The model refused to answer", why=f"It ended by {quote(self._finish)!r}")
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
            known = error if isinstance(error, dict) else {"message": error}
            kind = " ".join(str(known.get(name) or "") for name in ("code", "type", "status"))
            raise fault(kind, str(known.get("message") or error), self._secrets)
        return chunk

    def _choice(self, choice: dict[str, Any]) -> str:
        delta = choice.get("delta") or choice.get("message") or {}
        if not isinstance(delta, dict):
            self._bad("The answer is not a chat completion", str(choice))
        if refusal := delta.get("refusal"):
            raise CloudRefused("The model refused to answer", why=quote(str(refusal), self._secrets))
        text = _said(delta.get("content"))
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
    prompt, completion = count(usage.get("prompt_tokens")), count(usage.get("completion_tokens"))
    of_prompt, of_completion = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    cached = _detail(of_prompt, "cached_tokens")
    if cached is None:
        cached = count(usage.get("prompt_cache_hit_tokens"))  # DeepSeek's
    if cached is not None and prompt is not None:
        cached = min(cached, prompt)
    thought = _detail(of_completion, "reasoning_tokens")
    if thought and total(prompt, completion, thought) == usage.get("total_tokens"):
        completion = total(completion, thought)  # xAI counts what was thought beside what was said
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_tokens=cached,
        reasoning_tokens=thought,
        cache_write_tokens=_detail(of_prompt, "cache_write_tokens"),
    )


def _detail(details: object, name: str) -> int | None:
    return count(details.get(name)) if isinstance(details, dict) else None


def _said(content: object) -> object:
    """The text of a delta's content: itself, or in parts, of which those that are thoughts are left out."""
    if isinstance(content, list) and all(isinstance(part, dict) and "type" in part for part in content):
        return "".join(_text(part.get("text")) for part in content if part["type"] == "text")
    return content or ""


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
