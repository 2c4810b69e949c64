"""OpenAI's Responses format: https://platform.openai.com/docs/api-reference/responses."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from edgeai.cloud import CloudEnd, CloudText
from edgeai.cloud.chat import is_strict
from edgeai.cloud.wire import (
    Body,
    Headers,
    Json,
    Refused,
    bearer,
    count,
    data_url,
    fault,
    plain,
    split_system,
    word,
)
from edgeai.errors import CloudProtocol, CloudRefused
from edgeai.types import FinishReason, Image, Message, Released, Text, Tool, ToolCall, Usage

_FINISHED: dict[str, FinishReason | Refused] = {
    "completed": "stop",
    "max_output_tokens": "length",
    "content_filter": "refused",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponsesWire:
    """Responses, which OpenAI keeps for nobody: ``store`` is false. The format has no seed and no stop."""

    model: str
    fixed_sampling: bool = False

    @property
    def path(self) -> str:
        """What follows the base URL."""
        return "/responses"

    @property
    def last(self) -> None:
        """No event ends a stream but the connection's end."""
        return None

    def body(self, released: Released) -> Body:
        """The request. Raises CloudProtocol for stop strings."""
        if released.stop:
            raise CloudProtocol(f"{self.model} takes no stop strings", why="The Responses format has none")
        system, others = split_system(released.messages)
        body: Body = {
            "model": self.model,
            "input": [item for message in others for item in _items(message)],
            "max_output_tokens": released.max_tokens,
            "stream": True,
            "store": False,
        }
        if system:
            body["instructions"] = system
        if not self.fixed_sampling:
            body |= {"temperature": released.sampling.temperature, "top_p": released.sampling.top_p}
        if released.schema is not None:
            schema, strict = plain(released.schema), is_strict(released.schema)
            body["text"] = {
                "format": {"type": "json_schema", "name": "answer", "schema": schema, "strict": strict}
            }
        if released.tools:
            body["tools"] = [_tool(tool) for tool in released.tools]
        return body

    def headers(self, key: str) -> Headers:
        """The header that shows the key."""
        return bearer(key)

    def reader(self, secrets: tuple[str, ...]) -> "ResponsesReader":
        """What reads the answer."""
        return ResponsesReader(secrets)


class ResponsesReader:
    """From the events of one response to its pieces."""

    def __init__(self, secrets: tuple[str, ...] = ()) -> None:
        self._json, self._secrets = Json("a response of OpenAI's", secrets), secrets
        self._has_text = False
        self._usage = Usage()
        self._calls: list[ToolCall] = []
        self._finish: str | None = None

    def feed(self, data: str, event: str = "message") -> list[CloudText]:
        """The text in this event, if there is any."""
        if event == "whole":
            self._json.bad("The answer is one document and not a stream of events", data)
        said = self._json.parse(data)
        match said.get("type"):
            case "response.output_text.delta":
                if text := self._json.text(said.get("delta")):
                    self._has_text = True
                    return [CloudText(text)]
            case "response.refusal.done":
                why = self._json.text(said.get("refusal"))
                raise CloudRefused("The model refused to answer", why=why[:300] or None)
            case "response.output_item.done":
                self._item(self._json.mapping(said.get("item")))
            case "response.completed" | "response.incomplete":
                self._ended(self._json.mapping(said.get("response")))
            case "response.failed":
                error = self._json.mapping(self._json.mapping(said.get("response")).get("error"))
                raise fault(word(error.get("code")), word(error.get("message")), self._secrets)
            case "error":
                raise fault(word(said.get("code")), word(said.get("message")), self._secrets)
        return []

    def end(self) -> CloudEnd:
        """The stream is over: the last piece."""
        calls = tuple(self._calls)
        return self._json.finish(self._finish, _FINISHED, self._usage, calls, has_text=self._has_text)

    def _item(self, item: Body) -> None:
        if item.get("type") == "function_call":
            id = word(item.get("call_id")) or f"call_{len(self._calls)}"
            self._calls.append(self._json.call(word(item.get("name")), item.get("arguments"), id))

    def _ended(self, response: Body) -> None:
        cut = self._json.mapping(response.get("incomplete_details")).get("reason")
        self._finish = word(cut) or word(response.get("status")) or "completed"
        usage = self._json.mapping(response.get("usage"))
        of_input = self._json.mapping(usage.get("input_tokens_details"))
        of_output = self._json.mapping(usage.get("output_tokens_details"))
        self._usage = Usage(
            prompt_tokens=count(usage.get("input_tokens")),
            completion_tokens=count(usage.get("output_tokens")),
            cached_tokens=count(of_input.get("cached_tokens")),
            reasoning_tokens=count(of_output.get("reasoning_tokens")),
            cache_write_tokens=count(of_input.get("cache_write_tokens")),
        )


def _items(message: Message) -> Iterator[Body]:
    """The items of one message: its text, the calls it made, or the result of one."""
    if message.role == "tool":
        yield {"type": "function_call_output", "call_id": message.tool_call_id, "output": message.text}
        return
    if message.text or message.images:
        yield {"role": message.role, "content": _content(message)}
    for call in message.tool_calls:
        arguments = json.dumps(dict(call.arguments), ensure_ascii=False)
        yield {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": arguments}


def _content(message: Message) -> str | list[Body]:
    if isinstance(message.content, str) or not message.images:
        return message.text
    return [_part(part) for part in message.content]


def _part(part: Text | Image) -> Body:
    if isinstance(part, Text):
        return {"type": "input_text", "text": part.text}
    return {"type": "input_image", "image_url": data_url(part), "detail": "auto"}


def _tool(tool: Tool) -> Body:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": plain(tool.parameters),
        "strict": False,
    }
