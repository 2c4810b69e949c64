"""Amazon Bedrock's Converse format.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html
"""

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from urllib.parse import quote

from edgeai.cloud import CloudEnd, CloudText, Piece, aws
from edgeai.cloud.http import carry, checked_host, counted
from edgeai.cloud.keys import Key
from edgeai.cloud.sigv4 import Credentials, signed
from edgeai.cloud.wire import (
    Body,
    Headers,
    Json,
    Refused,
    base64_of,
    bearer,
    count,
    encoded,
    fault,
    plain,
    split_system,
    total,
    with_wish,
    word,
)
from edgeai.economics import Price, price_of
from edgeai.errors import CloudAuth, CloudProtocol, ConfigError
from edgeai.net import HttpCall, Link, Retry, Timeouts
from edgeai.types import FinishReason, Message, Released, Text, Tool, ToolCall, Usage

BEARER = "AWS_BEARER_TOKEN_BEDROCK"
REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
_FINISHED: dict[str, FinishReason | Refused] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "guardrail_intervened": "refused",
    "content_filtered": "refused",
}


class Bedrock:
    """A model at Amazon Bedrock, asked by ConverseStream. Connects to nothing by itself.

    region: by default the environment's AWS_REGION or AWS_DEFAULT_REGION, else the profile's.
    key: an API key of Bedrock's; None: the environment's ``key_variable``, by default
        AWS_BEARER_TOKEN_BEDROCK; without one the request is signed with ``credentials``.
    credentials: an access key; None: that of the profile, if one is named, else the environment's
        AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN.
    profile: a profile of Amazon's settings, by default AWS_PROFILE: keys, sign-in (SSO), roles, programs;
        needs the extra "bedrock". Without a profile no address but Bedrock's is asked for anything.
    price: needed for budgets unless Amazon's list price applies.

    The format has no seed and no top_k; a JSON schema is sent as a wish. Raises ConfigError, and for a
    profile MissingExtra, or CloudAuth when it cannot be read.
    """

    def __init__(
        self,
        model: str,
        *,
        region: str | None = None,
        base_url: str | None = None,
        key: str | None = None,
        key_variable: str | None = None,
        credentials: Credentials | None = None,
        profile: str | None = None,
        price: Price | None = None,
        timeouts: Timeouts | None = None,
        retry: Retry | None = None,
        link: Link | None = None,
    ) -> None:
        self._profile = profile or os.environ.get("AWS_PROFILE") or None
        if self._profile:
            aws.require()
        region = region or next((os.environ[name] for name in REGIONS if os.environ.get(name)), None)
        if not region and self._profile:
            region = aws.region_of(self._profile)
        if not region:
            raise ConfigError("Bedrock needs a region", remedy="Set AWS_REGION, or give region=…")
        self._base_url = (base_url or f"https://bedrock-runtime.{region}.amazonaws.com").rstrip("/")
        at_home = checked_host(self._base_url).endswith((".amazonaws.com", ".amazonaws.com.cn"))
        variable = key_variable or (BEARER if at_home else None)
        self._model, self._region, self._price = model, region, price
        self._key, self._credentials = Key(value=key, variable=variable, needed=False), credentials
        self._timeouts, self._retry, self._link = timeouts or Timeouts(), retry or Retry(), link or Link()

    def __repr__(self) -> str:
        return f"Bedrock({self._model!r}, region={self._region!r})"

    @property
    def model(self) -> str:
        """Amazon's name of the model, or of an inference profile."""
        return self._model

    @property
    def endpoint(self) -> str:
        """Where the bytes go."""
        return f"{self._base_url}/model/{quote(self._model, safe='')}/converse-stream"

    @property
    def price(self) -> Price | None:
        """The price given, else Amazon's list price, else None."""
        return self._price or price_of("aws", self._model)

    @property
    def tries(self) -> int:
        """How often the body is sent at most."""
        return self._retry.attempts

    def encode(self, released: Released) -> bytes:
        """The request's body. Raises CloudProtocol for an image that Bedrock does not take."""
        return encoded(converse_body(released))

    async def stream(self, released: Released) -> AsyncGenerator[Piece, None]:
        """Ask, and give the pieces as they arrive, one CloudEnd last. Raises CloudError's leaves."""
        key = await self._key.find()
        with counted(0):
            body = self.encode(released)
            headers, secrets = await self._proof(key, body)
        call = HttpCall(
            url=self.endpoint,
            body=body,
            headers=headers,
            secrets=secrets,
            kinds=("eventstream", "json"),  # some gateways answer in one piece
            link=self._link,
        )
        async with aclosing(carry(call, ConverseReader(secrets), self._timeouts, self._retry)) as pieces:
            async for piece in pieces:
                yield piece

    async def _proof(self, key: str, body: bytes) -> tuple[Headers, tuple[str, ...]]:
        """The headers that show who asks, and what of them is secret. Raises CloudAuth."""
        if key:
            return bearer(key), (key,)
        if self._credentials is not None:
            who = self._credentials
        elif self._profile:
            who = await asyncio.to_thread(aws.credentials_of, self._profile)
        else:
            who = _from_environment()
        return signed(self.endpoint, body, who, region=self._region, service="bedrock"), who.secrets


def _from_environment() -> Credentials:
    access, secret = (os.environ.get(f"AWS_{name}", "") for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"))
    if not access or not secret:
        raise CloudAuth(
            "There is no key for Bedrock",
            remedy=f"Set {BEARER}, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        )
    return Credentials(access_key=access, secret_key=secret, token=os.environ.get("AWS_SESSION_TOKEN", ""))


def converse_body(released: Released) -> Body:
    """The request, as ConverseStream wants it; the model is in the address."""
    system, others = split_system(with_wish(released))
    config: Body = {
        "maxTokens": released.max_tokens,
        "temperature": released.sampling.temperature,
    }
    if released.sampling.top_p < 1:
        config["topP"] = released.sampling.top_p
    if released.stop:
        config["stopSequences"] = list(released.stop)
    body: Body = {"messages": list(_turns(others)), "inferenceConfig": config}
    if system:
        body["system"] = [{"text": system}]
    if released.tools:
        body["toolConfig"] = {"tools": [_tool(tool) for tool in released.tools]}
    return body


def _turns(messages: list[Message]) -> Iterator[Body]:
    """Turns of user and assistant, alternating as Bedrock wants it."""
    turn: Body = {}
    for message in messages:
        role = "assistant" if message.role == "assistant" else "user"
        if turn.get("role") != role:
            if turn:
                yield turn
            turn = {"role": role, "content": []}
        turn["content"] += _blocks(message)
    yield turn


def _blocks(message: Message) -> Iterator[Body]:
    if message.role == "tool":
        result = {"toolUseId": message.tool_call_id, "content": [{"text": message.text}]}
        yield {"toolResult": result}
        return
    parts = (Text(message.content),) if isinstance(message.content, str) else message.content
    for part in parts:
        if not isinstance(part, Text):
            kind = part.media_type.removeprefix("image/")
            if kind not in ("png", "jpeg", "gif", "webp"):
                raise CloudProtocol(f"Bedrock takes no {part.media_type}")
            yield {"image": {"format": kind, "source": {"bytes": base64_of(part)}}}
        elif part.text:
            yield {"text": part.text}
    for call in message.tool_calls:
        yield {"toolUse": {"toolUseId": call.id, "name": call.name, "input": plain(call.arguments)}}


def _tool(tool: Tool) -> Body:
    described = {"description": tool.description} if tool.description else {}
    return {"toolSpec": {"name": tool.name, **described, "inputSchema": {"json": plain(tool.parameters)}}}


@dataclass(slots=True)
class _Use:
    """A tool call whose arguments are still arriving."""

    id: str
    name: str
    input: list[str] = field(default_factory=list)


class ConverseReader:
    """From the events of one answer to its pieces; what the model thinks aloud is left out."""

    def __init__(self, secrets: tuple[str, ...] = ()) -> None:
        self._json, self._secrets = Json("one of Bedrock's", secrets), secrets
        self._has_text = False
        self._usage = Usage()
        self._uses: dict[str, _Use] = {}
        self._finish: str | None = None

    def feed(self, data: str, event: str = "message") -> list[CloudText]:
        """The text in this event, if there is any."""
        said = self._json.parse(data or "{}")
        if event == "whole":
            return self._whole(said)
        if event.startswith("exception:"):
            raise fault(event.removeprefix("exception:"), word(said.get("message")), self._secrets)
        match event:
            case "contentBlockStart":
                use = self._json.mapping(self._json.mapping(said.get("start")).get("toolUse"))
                if use:
                    self._uses[_index(said)] = _Use(word(use.get("toolUseId")), word(use.get("name")))
            case "contentBlockDelta":
                return self._delta(self._json.mapping(said.get("delta")), _index(said))
            case "messageStop":
                self._finish = self._finish or word(said.get("stopReason")) or None
            case "metadata":
                self._usage = read_usage(self._json.mapping(said.get("usage")))
        return []

    def end(self) -> CloudEnd:
        """The stream is over: the last piece."""
        calls = tuple(self._call(use, at) for at, use in enumerate(self._uses.values()))
        return self._json.finish(self._finish, _FINISHED, self._usage, calls, has_text=self._has_text)

    def _whole(self, said: Body) -> list[CloudText]:
        blocks = self._json.mappings(
            self._json.mapping(self._json.mapping(said.get("output")).get("message")).get("content")
        )
        texts: list[CloudText] = []
        for at, block in enumerate(blocks):
            use = self._json.mapping(block.get("toolUse"))
            if use:
                arguments = json.dumps(use.get("input"))
                self._uses[str(at)] = _Use(word(use.get("toolUseId")), word(use.get("name")), [arguments])
            texts += self._delta({"text": block.get("text")}, str(at))
        self._finish, self._usage = (
            word(said.get("stopReason")),
            read_usage(self._json.mapping(said.get("usage"))),
        )
        return texts

    def _delta(self, delta: Body, index: str) -> list[CloudText]:
        use = self._json.mapping(delta.get("toolUse"))
        if use and index in self._uses:
            self._uses[index].input.append(self._json.text(use.get("input")))
        text = self._json.text(delta.get("text"))
        if text and self._finish is not None:
            self._json.bad("The answer goes on after its end", text)
        self._has_text = self._has_text or bool(text)
        return [CloudText(text)] if text else []

    def _call(self, use: _Use, at: int) -> ToolCall:
        return self._json.call(use.name, "".join(use.input), use.id or f"call_{at}")


def _index(said: Body) -> str:
    return str(said.get("contentBlockIndex", 0))


def read_usage(usage: Body) -> Usage:
    """The counts; Bedrock's inputTokens leave out those read from its cache or stored in it."""
    cached, written = count(usage.get("cacheReadInputTokens")), count(usage.get("cacheWriteInputTokens"))
    fresh = count(usage.get("inputTokens"))
    return Usage(
        prompt_tokens=None if fresh is None else total(fresh, cached, written),
        completion_tokens=count(usage.get("outputTokens")),
        cached_tokens=cached,
        cache_write_tokens=written,
    )
