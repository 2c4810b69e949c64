"""OpenAI's chat completions, which most other servers speak too."""

import base64
import ipaddress
import json
import os
import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any, Literal
from urllib.parse import urlsplit

from edgeai import net
from edgeai.cloud import Piece
from edgeai.cloud.chunks import ChunkDecoder
from edgeai.economics import Price, price_of
from edgeai.errors import CloudAuth, CloudError, CloudProtocol, ConfigError
from edgeai.net import HttpCall, Retry, Timeouts
from edgeai.types import Image, JsonSchema, Message, Released, Text, Tool, ToolCall

HOME = "api.openai.com"
TokenLimit = Literal["max_tokens", "max_completion_tokens"]

# OpenAI's own models that think first. They refuse temperature, top_p and stop; the "chat" variants do not.
_THINKS_FIRST = re.compile(r"(ft:)?(o\d|gpt-([5-9]|\d\d))(?!.*-chat)")


class OpenAI:
    """A model at OpenAI, or at any server that speaks the same protocol. Connects to nothing by itself.

    key: the API key; None: read from the environment at each call; "": the server wants none.
    base_url: the API's address, with its version: ``http://10.0.0.5:8000/v1``.
    key_variable: where the key is when ``key`` is None. By default OPENAI_API_KEY for OpenAI itself, and
        none for other servers, which have no business with that key; one on this machine needs no key.
    price: needed for budgets unless OpenAI's list price applies.
    token_limit: how the server calls the limit of an answer's tokens. By default ``max_completion_tokens``
        for OpenAI, which deprecated the other, and ``max_tokens``, which all others know.

    ``top_k`` and ``min_p`` are not part of the protocol and not sent. Raises ConfigError.
    """

    def __init__(
        self,
        model: str,
        *,
        key: str | None = None,
        base_url: str = f"https://{HOME}/v1",
        key_variable: str | None = None,
        price: Price | None = None,
        token_limit: TokenLimit | None = None,
        timeouts: Timeouts | None = None,
        retry: Retry | None = None,
    ) -> None:
        self._host = _checked_host(base_url)
        at_home = self._host == HOME
        if not model:
            raise ConfigError(
                "The cloud's model has no name", remedy='Give OpenAI("gpt-4o-mini"), for example'
            )
        self._model, self._key, self._price = model, key, price
        self._base_url = base_url.rstrip("/")
        self._key_variable = key_variable or ("OPENAI_API_KEY" if at_home else None)
        self._token_limit = token_limit or ("max_completion_tokens" if at_home else "max_tokens")
        self._fixed_sampling = at_home and bool(_THINKS_FIRST.match(model))
        self._timeouts, self._retry = timeouts or Timeouts(), retry or Retry()

    def __repr__(self) -> str:
        return f"OpenAI({self._model!r}, base_url={self._base_url!r})"

    @property
    def model(self) -> str:
        """The provider's name of the model."""
        return self._model

    @property
    def endpoint(self) -> str:
        """Where the bytes go."""
        return f"{self._base_url}/chat/completions"

    @property
    def price(self) -> Price | None:
        """The price given, else OpenAI's list price for a model of theirs, else None."""
        if self._price is None and self._host == HOME:
            return price_of("openai", self._model)
        return self._price

    def encode(self, released: Released) -> bytes:
        """The request's body. Raises CloudProtocol for what the model does not take."""
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [_message(message) for message in released.messages],
            self._token_limit: released.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if not self._fixed_sampling:
            body |= {"temperature": released.sampling.temperature, "top_p": released.sampling.top_p}
        if released.sampling.seed is not None:
            body["seed"] = released.sampling.seed
        if released.stop:
            if self._fixed_sampling:
                raise CloudProtocol(f"{self._model} takes no stop strings")
            body["stop"] = list(released.stop)
        if released.schema is not None:
            body["response_format"] = _response_format(released.schema)
        if released.tools:
            body["tools"] = [_tool(tool) for tool in released.tools]
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "replace")  # half a surrogate pair is not text

    async def stream(self, released: Released) -> AsyncGenerator[Piece, None]:
        """Ask, and give the pieces as they arrive, one CloudEnd last. Raises CloudError's leaves."""
        sends = 0
        with _counted(sends):
            call = self._call(released)
        decoder = ChunkDecoder(call.secrets)
        async with aclosing(net.stream_events(call, timeouts=self._timeouts, retry=self._retry)) as events:
            async for event in events:
                sends = event.sends
                with _counted(sends):
                    pieces = decoder.feed(event.data)
                for piece in pieces:
                    yield piece
        with _counted(sends):
            end = decoder.end()
        yield replace(end, sends=sends)

    def _call(self, released: Released) -> HttpCall:
        key = self._find_key()
        return HttpCall(
            url=self.endpoint,
            body=self.encode(released),
            headers=(("Authorization", f"Bearer {key}"),) if key else (),
            secrets=(key,) if key else (),
            last="[DONE]",
        )

    def _find_key(self) -> str:
        """The key, or "" when none is to be sent. Raises CloudAuth."""
        key, source = self._key, "key"
        if key is None and self._key_variable:
            key, source = os.environ.get(self._key_variable), self._key_variable
        if key is None and not _is_loopback(self._host):
            name = self._key_variable
            raise CloudAuth(
                f"There is no key for {self._host}",
                why=f"The environment has no {name}" if name else "Neither key nor key_variable is given",
                remedy='Set it, or give key=…; key="" for a server that wants none',
            )
        key = (key or "").strip()
        if not re.fullmatch(r"[!-~]*", key):
            # An HTTP library would quote the whole key in its complaint.
            raise CloudAuth(f"The key ({source}) holds spaces or characters that no key has")
        return key


@contextmanager
def _counted(sends: int) -> Iterator[None]:
    """Note in a CloudError how often the body had been sent."""
    try:
        yield
    except CloudError as error:
        error.sends = sends
        raise


def _checked_host(base_url: str) -> str:
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"base_url is {base_url!r}", remedy="Give an address like http://10.0.0.5:8000/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError("base_url has a password, a query or a fragment", remedy="Give the key as key=…")
    return parts.hostname


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _message(message: Message) -> dict[str, Any]:
    wire: dict[str, Any] = {"role": message.role, "content": _content(message)}
    if message.tool_calls:
        wire["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
        wire["content"] = wire["content"] or None
    if message.tool_call_id is not None:
        wire["tool_call_id"] = message.tool_call_id
    return wire


def _content(message: Message) -> str | list[dict[str, Any]]:
    if isinstance(message.content, str) or not message.images:
        return message.text
    return [_part(part) for part in message.content]


def _part(part: Text | Image) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    data = base64.b64encode(part.data).decode()
    return {"type": "image_url", "image_url": {"url": f"data:{part.media_type};base64,{data}"}}


def _tool_call(call: ToolCall) -> dict[str, Any]:
    arguments = json.dumps(dict(call.arguments), ensure_ascii=False)
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _tool(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function}


def _response_format(schema: JsonSchema) -> dict[str, Any]:
    strict = is_strict(schema)
    return {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": dict(schema), "strict": strict},
    }


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
