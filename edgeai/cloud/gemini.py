"""Google's Gemini format: https://ai.google.dev/api/generate-content."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from edgeai.cloud import CloudEnd, CloudText
from edgeai.cloud.wire import (
    Body,
    Headers,
    Json,
    Refused,
    base64_of,
    bearer,
    count,
    fault,
    plain,
    split_system,
    total,
    word,
)
from edgeai.errors import CloudRefused
from edgeai.types import FinishReason, Message, Released, Text, Tool, ToolCall, Usage

_FINISHED: dict[str, FinishReason | Refused] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "refused",
    "RECITATION": "refused",
    "LANGUAGE": "refused",
    "BLOCKLIST": "refused",
    "PROHIBITED_CONTENT": "refused",
    "SPII": "refused",
    "MODEL_ARMOR": "refused",
}
# From version 3 on a call in the history must be signed; this is Google's word for one made elsewhere.
_SIGNS = re.compile(r"gemini-([3-9]|\d\d)")
_MADE_ELSEWHERE = "skip_thought_signature_validator"


@dataclass(frozen=True, slots=True, kw_only=True)
class GeminiWire:
    """Generate content, streamed as server-sent events. At Vertex the key is a token that bears itself."""

    model: str
    bears_token: bool = False

    @property
    def path(self) -> str:
        """What follows the base URL."""
        return f"/models/{self.model}:streamGenerateContent?alt=sse"

    @property
    def last(self) -> None:
        """No event ends a stream but the connection's end."""
        return None

    def body(self, released: Released) -> Body:
        """The request."""
        system, others = split_system(released.messages)
        names = {call.id: call.name for message in others for call in message.tool_calls}
        body: Body = {
            "contents": [self._content(message, names) for message in others],
            "generationConfig": _config(released),
        }
        if system:
            body["systemInstruction"] = {"parts": [{"text": system}]}
        if released.tools:
            body["tools"] = [{"functionDeclarations": [_tool(tool) for tool in released.tools]}]
        return body

    def headers(self, key: str) -> Headers:
        """The header that shows the key."""
        if self.bears_token:
            return bearer(key)
        return (("x-goog-api-key", key),) if key else ()

    def reader(self, secrets: tuple[str, ...]) -> "GeminiReader":
        """What reads the answer."""
        return GeminiReader(secrets)

    def _content(self, message: Message, names: Mapping[str, str]) -> Body:
        if message.role == "tool":
            name = names.get(message.tool_call_id or "", message.tool_call_id)
            answer = {"name": name, "response": {"result": message.text}}
            return {"role": "user", "parts": [{"functionResponse": answer}]}
        parts = (Text(message.content),) if isinstance(message.content, str) else message.content
        made: list[Body] = []
        for part in parts:
            if not isinstance(part, Text):
                made.append({"inlineData": {"mimeType": part.media_type, "data": base64_of(part)}})
            elif part.text:
                made.append({"text": part.text})
        made += [self._call(call) for call in message.tool_calls]
        return {"role": "model" if message.role == "assistant" else "user", "parts": made}

    def _call(self, call: ToolCall) -> Body:
        signed = {"thoughtSignature": _MADE_ELSEWHERE} if _SIGNS.match(self.model) else {}
        return {"functionCall": {"name": call.name, "args": plain(call.arguments)}, **signed}


def _config(released: Released) -> Body:
    sampling = released.sampling
    config: Body = {
        "maxOutputTokens": released.max_tokens,
        "temperature": sampling.temperature,
        "topP": sampling.top_p,
    }
    if sampling.top_k:
        config["topK"] = sampling.top_k
    if sampling.seed is not None:
        config["seed"] = sampling.seed
    if released.stop:
        config["stopSequences"] = list(released.stop)
    if released.schema is not None:
        config |= {"responseMimeType": "application/json", "responseJsonSchema": plain(released.schema)}
    return config


def _tool(tool: Tool) -> Body:
    return {
        "name": tool.name,
        "description": tool.description,
        "parametersJsonSchema": plain(tool.parameters),
    }


class GeminiReader:
    """From the parts of one answer to its pieces; what the model thinks aloud is left out."""

    def __init__(self, secrets: tuple[str, ...] = ()) -> None:
        self._json, self._secrets = Json("one of Gemini's", secrets), secrets
        self._has_text = False
        self._usage = Usage()
        self._calls: list[ToolCall] = []
        self._finish: str | None = None

    def feed(self, data: str, event: str = "message") -> list[CloudText]:
        """The text in this event, if there is any; a whole answer has the same form."""
        said = self._json.parse(data)
        if error := self._json.mapping(said.get("error")):
            kind = f"{error.get('status', '')} {error.get('code', '')}"
            raise fault(kind, word(error.get("message")), self._secrets)
        if blocked := self._json.mapping(said.get("promptFeedback")).get("blockReason"):
            raise CloudRefused("The provider blocked the question", why=word(blocked)[:80] or None)
        if usage := self._json.mapping(said.get("usageMetadata")):
            self._usage = read_usage(usage)
        candidates = self._json.mappings(said.get("candidates"))
        return [text for one in candidates if not one.get("index") for text in self._candidate(one)]

    def end(self) -> CloudEnd:
        """The stream is over: the last piece."""
        calls = tuple(self._calls)
        return self._json.finish(self._finish, _FINISHED, self._usage, calls, has_text=self._has_text)

    def _candidate(self, candidate: Body) -> list[CloudText]:
        parts = self._json.mappings(self._json.mapping(candidate.get("content")).get("parts"))
        for part in parts:
            if call := self._json.mapping(part.get("functionCall")):
                id = word(call.get("id")) or f"call_{len(self._calls)}"
                self._calls.append(self._json.call(word(call.get("name")), call.get("args") or {}, id))
        texts = [self._json.text(part.get("text")) for part in parts if not part.get("thought")]
        if any(texts) and self._finish is not None:
            self._json.bad("The answer goes on after its end", "".join(texts))
        self._finish = word(candidate.get("finishReason")) or self._finish
        self._has_text = self._has_text or any(texts)
        return [CloudText(text) for text in texts if text]


def read_usage(usage: Body) -> Usage:
    """The counts; Gemini counts what it thought beside what it said."""
    said, thought = count(usage.get("candidatesTokenCount")), count(usage.get("thoughtsTokenCount"))
    prompt = count(usage.get("promptTokenCount"))
    return Usage(
        prompt_tokens=prompt
        if prompt is None
        else total(prompt, count(usage.get("toolUsePromptTokenCount"))),
        completion_tokens=total(said, thought),
        cached_tokens=count(usage.get("cachedContentTokenCount")),
        reasoning_tokens=thought,
    )
