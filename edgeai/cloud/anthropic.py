"""Anthropic's Messages format: https://platform.claude.com/docs/en/api/messages."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from edgeai.cloud import CloudEnd, CloudText
from edgeai.cloud.wire import (
    Body,
    Headers,
    Json,
    Refused,
    base64_of,
    count,
    fault,
    is_closed,
    plain,
    split_system,
    total,
    with_wish,
    word,
)
from edgeai.types import FinishReason, Message, Released, Text, Tool, ToolCall, Usage

VERSION = "2023-06-01"
_FINISHED: dict[str, FinishReason | Refused] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "refused",
}
# Models after Claude 4.6 refuse temperature, top_p and top_k; those before 4.1 know no schemas.
_SAMPLES = re.compile(r".*claude-(\d|instant|(opus|sonnet|haiku)-4(-[0-6])?(-\d{8})?(-v\d.*)?$)")
_NO_SCHEMA = re.compile(r".*claude-([23]|instant|(opus|sonnet)-4(-0)?(-\d{8})?(-v\d.*)?$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagesWire:
    """Messages. The format has no seed."""

    model: str

    @property
    def path(self) -> str:
        """What follows the base URL."""
        return "/messages"

    @property
    def last(self) -> None:
        """No event ends a stream but the connection's end."""
        return None

    def body(self, released: Released) -> Body:
        """The request. A schema that is not closed, or that the model does not know, is sent as a wish."""
        held = released.schema is not None and is_closed(released.schema) and not _NO_SCHEMA.match(self.model)
        system, others = split_system(released.messages if held else with_wish(released))
        body: Body = {
            "model": self.model,
            "max_tokens": released.max_tokens,
            "messages": [{"role": role, "content": blocks} for role, blocks in turns(others)],
            "stream": True,
        }
        if system:
            body["system"] = system
        body |= self._sampling(released)
        if released.stop:
            body["stop_sequences"] = list(released.stop)
        if held and released.schema is not None:
            body["output_config"] = {"format": {"type": "json_schema", "schema": plain(released.schema)}}
        if released.tools:
            body["tools"] = [_tool(tool) for tool in released.tools]
        return body

    def headers(self, key: str) -> Headers:
        """The headers that show the key and the format's version."""
        return (*((("x-api-key", key),) if key else ()), ("anthropic-version", VERSION))

    def reader(self, secrets: tuple[str, ...]) -> "MessagesReader":
        """What reads the answer."""
        return MessagesReader(secrets)

    def _sampling(self, released: Released) -> Body:
        sampling = released.sampling
        if not _SAMPLES.match(self.model):
            return {}
        values: Body = {"temperature": sampling.temperature}
        if sampling.top_p < 1:  # newer ones take only one of the two
            values = {"top_p": sampling.top_p} | (values if sampling.temperature else {})
        return values | ({"top_k": sampling.top_k} if sampling.top_k else {})


def turns(messages: list[Message]) -> Iterator[tuple[str, list[Body]]]:
    """The conversation as turns of user and assistant, each in one piece, as the format wants it."""
    role, blocks = "", list[Body]()
    for message in messages:
        next_role = "assistant" if message.role == "assistant" else "user"
        if next_role != role and blocks:
            yield role, blocks
            blocks = []
        role = next_role
        blocks += _blocks(message)
    if blocks:
        yield role, blocks


def _blocks(message: Message) -> Iterator[Body]:
    if message.role == "tool":
        yield {"type": "tool_result", "tool_use_id": message.tool_call_id, "content": message.text}
        return
    parts = (Text(message.content),) if isinstance(message.content, str) else message.content
    for part in parts:
        if not isinstance(part, Text):
            source = {"type": "base64", "media_type": part.media_type, "data": base64_of(part)}
            yield {"type": "image", "source": source}
        elif part.text:
            yield {"type": "text", "text": part.text}
    for call in message.tool_calls:
        yield {"type": "tool_use", "id": call.id, "name": call.name, "input": plain(call.arguments)}


def _tool(tool: Tool) -> Body:
    described = {"description": tool.description} if tool.description else {}
    return {"name": tool.name, **described, "input_schema": plain(tool.parameters)}


@dataclass(slots=True)
class _Block:
    """A tool call whose arguments are still arriving."""

    id: str
    name: str
    input: object
    arguments: list[str] = field(default_factory=list)


class MessagesReader:
    """From the events of one message to its pieces; what the model thinks aloud is left out."""

    def __init__(self, secrets: tuple[str, ...] = ()) -> None:
        self._json, self._secrets = Json("a message of Anthropic's", secrets), secrets
        self._has_text = False
        self._usage: Body = {}
        self._blocks: dict[object, _Block] = {}
        self._finish: str | None = None

    def feed(self, data: str, event: str = "message") -> list[CloudText]:
        """The text in this event, if there is any; a whole message in one document is read, too."""
        said = self._json.parse(data)
        match said.get("type"):
            case "message":
                return self._whole(said)
            case "message_start":
                self._usage |= self._json.mapping(self._json.mapping(said.get("message")).get("usage"))
            case "content_block_start":
                block = self._json.mapping(said.get("content_block"))
                return self._block(block, said.get("index"))
            case "content_block_delta":
                return self._delta(self._json.mapping(said.get("delta")), said.get("index"))
            case "message_delta":
                delta = self._json.mapping(said.get("delta"))
                self._finish = word(delta.get("stop_reason")) or self._finish
                usage = self._json.mapping(said.get("usage"))
                self._usage |= {name: number for name, number in usage.items() if number is not None}
            case "error":
                error = self._json.mapping(said.get("error"))
                raise fault(word(error.get("type")), word(error.get("message")), self._secrets)
        return []

    def end(self) -> CloudEnd:
        """The stream is over: the last piece."""
        calls = tuple(self._call(block, at) for at, block in enumerate(self._blocks.values()))
        return self._json.finish(
            self._finish, _FINISHED, read_usage(self._usage), calls, has_text=self._has_text
        )

    def _whole(self, message: Body) -> list[CloudText]:
        blocks = enumerate(self._json.mappings(message.get("content")))
        texts = [text for at, block in blocks for text in self._block(block, at)]
        self._usage = self._json.mapping(message.get("usage"))
        self._finish = word(message.get("stop_reason")) or None
        return texts

    def _block(self, block: Body, index: object) -> list[CloudText]:
        if block.get("type") == "tool_use":
            call = _Block(word(block.get("id")), word(block.get("name")), block.get("input"))
            self._blocks[str(index)] = call
        return self._said(block.get("text")) if block.get("type") == "text" else []

    def _delta(self, delta: Body, index: object) -> list[CloudText]:
        if delta.get("type") == "input_json_delta" and (block := self._blocks.get(str(index))):
            block.arguments.append(self._json.text(delta.get("partial_json")))
        return self._said(delta.get("text")) if delta.get("type") == "text_delta" else []

    def _said(self, value: object) -> list[CloudText]:
        text = self._json.text(value)
        if text and self._finish is not None:
            self._json.bad("The answer goes on after its end", text)
        self._has_text = self._has_text or bool(text)
        return [CloudText(text)] if text else []

    def _call(self, block: _Block, at: int) -> ToolCall:
        arguments = "".join(block.arguments) or block.input or {}
        return self._json.call(block.name, arguments, block.id or f"call_{at}")


def read_usage(usage: Body) -> Usage:
    """The counts; Anthropic's input_tokens leave out those read from its cache or stored in it."""
    cached, written = (
        count(usage.get("cache_read_input_tokens")),
        count(usage.get("cache_creation_input_tokens")),
    )
    fresh = count(usage.get("input_tokens"))
    details = usage.get("output_tokens_details")
    thought = details.get("thinking_tokens") if isinstance(details, dict) else None
    return Usage(
        prompt_tokens=None if fresh is None else total(fresh, cached, written),
        completion_tokens=count(usage.get("output_tokens")),
        cached_tokens=cached,
        reasoning_tokens=count(thought),
        cache_write_tokens=written,
    )
