"""What all codecs share: the seam they fill, and reading what a server says without trusting its types."""

import base64
import json
import re
from collections.abc import Mapping
from typing import Any, Literal, NoReturn, Protocol

from edgeai.cloud import CloudEnd, CloudText
from edgeai.errors import (
    CloudAuth,
    CloudError,
    CloudProtocol,
    CloudRateLimited,
    CloudRefused,
    CloudTimeout,
    CloudUnavailable,
)
from edgeai.net import quote
from edgeai.types import FinishReason, Image, JsonSchema, Message, Released, ToolCall, Usage

Refused = Literal["refused"]
Body = dict[str, Any]
Headers = tuple[tuple[str, str], ...]


class Reader(Protocol):
    """From the events of one answer to its pieces. Raises CloudProtocol and, where told so, its siblings."""

    def feed(self, data: str, event: str = "message") -> list[CloudText]:
        """The text in this event, if there is any."""
        ...

    def end(self) -> CloudEnd:
        """The stream is over: the last piece. Raises CloudProtocol when the answer is not complete."""
        ...


class Wire(Protocol):
    """One provider's format: pure functions, no key, no connection."""

    @property
    def path(self) -> str:
        """What follows the base URL."""
        ...

    @property
    def last(self) -> str | None:
        """The data of the event that ends a stream, if the format has one."""
        ...

    def body(self, released: Released) -> Body:
        """The request. Raises CloudProtocol for what the model does not take."""
        ...

    def headers(self, key: str) -> Headers:
        """The headers that show this key, which is "" for none, and others of the format."""
        ...

    def reader(self, secrets: tuple[str, ...]) -> Reader:
        """What reads the answer; ``secrets`` are struck out of what errors quote."""
        ...


def encoded(body: Body) -> bytes:
    """The body's bytes."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")  # half a surrogate pair is not text


def bearer(key: str) -> Headers:
    """The usual header for a key."""
    return (("Authorization", f"Bearer {key}"),) if key else ()


def base64_of(image: Image) -> str:
    """The image's bytes as text."""
    return base64.b64encode(image.data).decode()


def data_url(image: Image) -> str:
    """The image as a URL that holds it."""
    return f"data:{image.media_type};base64,{base64_of(image)}"


def split_system(messages: tuple[Message, ...]) -> tuple[str, list[Message]]:
    """The system messages' text, and the other messages: for formats that keep them apart."""
    system = "\n\n".join(message.text for message in messages if message.role == "system")
    return system, [message for message in messages if message.role != "system"]


def with_wish(released: Released) -> tuple[Message, ...]:
    """The messages with the schema as a wish in the system's: for models that cannot be held to it.

    Whoever asked checks the answer, as it is done for every cloud's JSON.
    """
    if released.schema is None:
        return released.messages
    schema = json.dumps(plain(released.schema), ensure_ascii=False)
    wish = f"Answer with JSON only, without a code fence. It must fit this JSON schema:\n{schema}"
    system, others = split_system(released.messages)
    return (Message("system", f"{system}\n\n{wish}" if system else wish), *others)


def plain(schema: JsonSchema) -> Body:
    """The schema in dicts and lists alone, which every JSON encoder takes."""
    made: Body = json.loads(json.dumps(schema, default=dict))
    return made


def is_closed(schema: object) -> bool:
    """Whether every object in the schema says additionalProperties=false: strict modes take only these."""
    if isinstance(schema, list | tuple):
        return all(is_closed(item) for item in schema)
    if not isinstance(schema, Mapping):
        return True
    is_object = schema.get("type") == "object" or "properties" in schema
    if is_object and schema.get("additionalProperties") is not False:
        return False
    return all(is_closed(value) for value in schema.values())


_LEAVES: tuple[tuple[str, type[CloudError]], ...] = (
    (r"429|rate.?limit|throttl|resource_exhausted|too_many|quota", CloudRateLimited),
    (r"401|403|auth|permission|access_?denied|unrecognizedclient|invalid_api_key", CloudAuth),
    (r"408|504|timeout|timed_out|deadline", CloudTimeout),
    (
        r"5\d\d|overloaded|unavailable|internal|server_error|api_error|stream_?error|not_?ready",
        CloudUnavailable,
    ),
    (r"content_filter|content_policy|safety|refusal|moderation", CloudRefused),
)


def fault(kind: str, message: str, secrets: tuple[str, ...] = ()) -> CloudError:
    """The leaf for an error that a provider reports inside a stream; ``kind`` is its type, status or code."""
    leaf = next((leaf for words, leaf in _LEAVES if re.search(words, kind, re.IGNORECASE)), CloudProtocol)
    why = quote(message or kind, secrets) or None
    return leaf("The provider broke the answer off with an error", why=why)


class Json:
    """Reads the values of one provider's events, and complains in its name."""

    def __init__(self, name: str, secrets: tuple[str, ...]) -> None:
        self._name, self._secrets = name, secrets

    def parse(self, data: str) -> Body:
        """The event's object."""
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            self.bad("The answer is not JSON", data)
        return self.mapping(value)

    def mapping(self, value: object) -> Body:
        """The value, which must be an object; None stands for an empty one."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.bad(f"The answer is not {self._name}", str(value))
        return value

    def mappings(self, value: object) -> list[Body]:
        """The value, which must be a list of objects; None stands for an empty one."""
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.bad(f"The answer is not {self._name}", str(value))
        return value

    def text(self, value: object) -> str:
        """The value, which must be a text; None stands for an empty one."""
        if value is None:
            return ""
        if not isinstance(value, str):
            self.bad(f"The answer is not {self._name}", str(value))
        return value

    def call(self, name: str, arguments: object, id: str) -> ToolCall:
        """A tool call; ``arguments`` is an object, or the JSON text of one."""
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}")
            except (ValueError, RecursionError):
                self.bad("A tool call's arguments are not JSON")
        if not name or not isinstance(arguments, dict):
            self.bad("A tool call has no name, or arguments that are not a JSON object", str(arguments))
        return ToolCall(name=name, arguments=arguments, id=id)

    def finish(
        self,
        said: str | None,
        reasons: "Mapping[str, FinishReason | Refused]",
        usage: Usage,
        calls: tuple[ToolCall, ...],
        *,
        has_text: bool,
    ) -> CloudEnd:
        """The end of an answer whose finish reason, in the provider's words, is ``said``."""
        if said is None:
            self.bad("The answer broke off", "The stream ended without a finish reason")
        finish = reasons.get(said)
        if finish == "refused":
            raise CloudRefused(
                "The model refused to answer", why=f"It ended by {quote(said, self._secrets)!r}"
            )
        if finish is None:
            self.bad(f"The provider ended the answer by {quote(said, self._secrets)!r}")
        if not has_text and not calls:
            self.bad(
                "The cloud's answer is empty",
                "max_tokens was used up before any text" if finish == "length" else "",
            )
        return CloudEnd(finish_reason="tool_calls" if calls else finish, usage=usage, tool_calls=calls)

    def bad(self, what: str, said: str = "") -> NoReturn:
        """Raise CloudProtocol."""
        raise CloudProtocol(what, why=quote(said, self._secrets) or None)


def count(value: object) -> int | None:
    """A number of tokens, or None when it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def total(*counts: int | None) -> int | None:
    """The sum of the counts that are known; None when none is."""
    known = [number for number in counts if number is not None]
    return sum(known) if known else None


def word(value: object) -> str:
    """The value if it is a text, else an empty one."""
    return value if isinstance(value, str) else ""
