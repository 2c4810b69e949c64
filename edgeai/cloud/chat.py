"""The chat completions format: OpenAI's, and with small differences that of most other servers."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from edgeai.cloud.chunks import ChunkDecoder
from edgeai.cloud.wire import Body, Headers, bearer, data_url, plain, with_wish
from edgeai.errors import CloudProtocol
from edgeai.types import Image, JsonSchema, Message, Released, Text, Tool, ToolCall

TokenLimit = Literal["max_tokens", "max_completion_tokens"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatWire:
    """Chat completions, as one server takes them.

    token_limit: what it calls the limit of an answer's tokens.
    json: "json_schema", or "json_object" for a server that keeps to JSON but not to a schema.
    asks_usage: whether it must be asked for the token counts; others refuse the question and tell.
    seed: its name for the seed, None when it takes none.
    fixed_sampling: the model thinks first and refuses temperature, top_p and stop.
    short_ids: it takes only 9 letters and digits as a tool call's id.
    key_header: where the key goes, if not as a bearer's.
    """

    model: str
    token_limit: TokenLimit = "max_tokens"
    json: Literal["json_schema", "json_object"] = "json_schema"
    asks_usage: bool = True
    seed: str | None = "seed"
    fixed_sampling: bool = False
    short_ids: bool = False
    key_header: str | None = None

    @property
    def path(self) -> str:
        """What follows the base URL."""
        return "/chat/completions"

    @property
    def last(self) -> str:
        """The data of the event that ends a stream."""
        return "[DONE]"

    def body(self, released: Released) -> Body:
        """The request. Raises CloudProtocol for what the model does not take."""
        wished = self.json == "json_object"
        messages = with_wish(released) if wished else released.messages
        body: Body = {
            "model": self.model,
            "messages": [_message(message, self._id) for message in messages],
            self.token_limit: released.max_tokens,
            "stream": True,
        }
        if self.asks_usage:
            body["stream_options"] = {"include_usage": True}
        body |= self._sampling(released)
        if released.schema is not None:
            body["response_format"] = {"type": "json_object"} if wished else _format(released.schema)
        if released.tools:
            body["tools"] = [_tool(tool) for tool in released.tools]
        return body

    def headers(self, key: str) -> Headers:
        """The header that shows the key."""
        return ((self.key_header, key),) if key and self.key_header else bearer(key)

    def reader(self, secrets: tuple[str, ...]) -> ChunkDecoder:
        """What reads the answer."""
        return ChunkDecoder(secrets)

    def _sampling(self, released: Released) -> Body:
        sampling, values = released.sampling, Body()
        if not self.fixed_sampling:
            values |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
        if sampling.seed is not None and self.seed:
            values[self.seed] = sampling.seed
        if released.stop:
            if self.fixed_sampling:
                raise CloudProtocol(f"{self.model} takes no stop strings")
            values["stop"] = list(released.stop)
        return values

    def _id(self, id: str) -> str:
        return hashlib.sha256(id.encode()).hexdigest()[:9] if self.short_ids else id


def _message(message: Message, id_of: Callable[[str], str]) -> Body:
    wire: Body = {"role": message.role, "content": _content(message)}
    if message.tool_calls:
        wire["tool_calls"] = [_tool_call(call, id_of(call.id)) for call in message.tool_calls]
        wire["content"] = wire["content"] or None
    if message.tool_call_id is not None:
        wire["tool_call_id"] = id_of(message.tool_call_id)
    return wire


def _content(message: Message) -> str | list[Body]:
    if isinstance(message.content, str) or not message.images:
        return message.text
    return [_part(part) for part in message.content]


def _part(part: Text | Image) -> Body:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    return {"type": "image_url", "image_url": {"url": data_url(part)}}


def _tool_call(call: ToolCall, id: str) -> Body:
    arguments = json.dumps(dict(call.arguments), ensure_ascii=False)
    return {"id": id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _tool(tool: Tool) -> Body:
    function = {"name": tool.name, "description": tool.description, "parameters": plain(tool.parameters)}
    return {"type": "function", "function": function}


def _format(schema: JsonSchema) -> Body:
    named = {"name": "answer", "schema": plain(schema), "strict": is_strict(schema)}
    return {"type": "json_schema", "json_schema": named}


def is_strict(schema: object) -> bool:
    """Whether OpenAI's strict mode takes this schema: every object closed, and all its properties required.

    Others are sent as a wish, and whoever asked checks the answer.
    """
    if isinstance(schema, list | tuple):
        return all(is_strict(item) for item in schema)
    if not isinstance(schema, Mapping):
        return True
    if schema.get("type") == "object" or "properties" in schema:
        closed = schema.get("additionalProperties") is False
        if not closed or set(schema.get("required", ())) != set(schema.get("properties", ())):
            return False
    return all(is_strict(value) for value in schema.values())
