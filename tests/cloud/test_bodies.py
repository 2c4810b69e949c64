"""Every body against the types of the provider's own library, which edgeai does not use."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import botocore.session
import pytest
from anthropic.types.message_create_params import MessageCreateParamsStreaming
from botocore.serialize import create_serializer
from botocore.validate import ParamValidator
from google.genai import types as gemini
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming
from pydantic import TypeAdapter, ValidationError
from pydantic_core import SchemaValidator

from edgeai.cloud.anthropic import MessagesWire
from edgeai.cloud.bedrock import converse_body
from edgeai.cloud.gemini import GeminiWire
from edgeai.cloud.providers import PROVIDERS, wire_of
from edgeai.cloud.replicate import prediction_body
from edgeai.cloud.responses import ResponsesWire
from edgeai.cloud.wire import Body
from edgeai.errors import CloudProtocol
from edgeai.types import Message, Released, Sampling, Tool, ToolCall
from tests.cloud.conversations import FULL, JSON, PLAIN, SCHEMA, STOP, WISH

ALL = {"full": FULL, "json": JSON, "plain": PLAIN, "stop": STOP, "wish": WISH}
CHAT = [name for name, provider in PROVIDERS.items() if provider.format == "chat"]
# Fields of the chat format that are not OpenAI's, by the provider that has them.
OTHERS = {"mistral": {"random_seed"}}
each_request = pytest.mark.parametrize("released", ALL.values(), ids=ALL)


def validator(params: Any) -> SchemaValidator:  # noqa: ANN401
    """What checks a body against the library's type of its parameters, and forbids unknown fields."""
    return SchemaValidator(_strict(TypeAdapter(params).core_schema))


def _strict(schema: Any) -> Any:  # noqa: ANN401  # pydantic's schemas are nested dicts
    if isinstance(schema, list | tuple):
        return type(schema)(_strict(one) for one in schema)
    if not isinstance(schema, dict):
        return schema
    made = {name: _strict(value) for name, value in schema.items()}
    if made.get("type") == "generator":  # an Iterable would be checked only when somebody uses it up
        made["type"] = "list"
    if made.get("type") in ("typed-dict", "model-fields"):
        made["extra_behavior"] = "forbid"
    if "extra_fields_behavior" in made:
        made["extra_fields_behavior"] = "forbid"
    return made


COMPLETION = validator(CompletionCreateParamsStreaming)
RESPONSE = validator(ResponseCreateParamsStreaming)
MESSAGE = validator(MessageCreateParamsStreaming)


def test_the_check_checks() -> None:
    """An unknown field deep inside a body, and one of a wrong type, are found."""
    body = MessagesWire(model="m").body(FULL)
    MESSAGE.validate_python(body)
    body["messages"][1]["content"][0]["inptu"] = 1
    with pytest.raises(ValidationError, match="inptu"):
        MESSAGE.validate_python(body)
    with pytest.raises(ValidationError, match="max_tokens"):
        MESSAGE.validate_python(MessagesWire(model="m").body(PLAIN) | {"max_tokens": "many"})


@each_request
@pytest.mark.parametrize("name", CHAT)
def test_chat(name: str, released: Released) -> None:
    """Every server of the chat format is sent what OpenAI's types know, and the little that is its own."""
    body = wire_of(name, "m").body(released)
    COMPLETION.validate_python({field: body[field] for field in body if field not in OTHERS.get(name, ())})


@each_request
def test_responses(released: Released) -> None:
    """The Responses format, which has no stop strings."""
    if released.stop:
        with pytest.raises(CloudProtocol, match="no stop strings"):
            ResponsesWire(model="gpt-4o").body(released)
    else:
        RESPONSE.validate_python(ResponsesWire(model="gpt-4o").body(released))


@each_request
@pytest.mark.parametrize("model", ["claude-opus-5", "claude-3-5-haiku-20241022"])
def test_messages(model: str, released: Released) -> None:
    """The Messages format; the sampling of older models is no longer in the library's types."""
    body = MessagesWire(model=model).body(released)
    gone = {"temperature", "top_p", "top_k"} if "claude-3" in model else set()
    MESSAGE.validate_python({field: body[field] for field in body if field not in gone})


@each_request
def test_gemini(released: Released) -> None:
    """Each part of Gemini's body is one of the library's, which forbids unknown fields."""
    body = GeminiWire(model="gemini-3-pro").body(released)
    for content in [*body.pop("contents"), body.pop("systemInstruction", {})]:
        gemini.Content.model_validate(content)
    gemini.GenerationConfig.model_validate(body.pop("generationConfig"))
    for tool in body.pop("tools", []):
        gemini.Tool.model_validate(tool)
    assert body == {}


@pytest.fixture(scope="module")
def converse() -> Any:  # noqa: ANN401  # botocore has no types
    """Amazon's own description of the call."""
    session = botocore.session.Session()
    return session.get_service_model("bedrock-runtime").operation_model("ConverseStream")


@each_request
def test_converse(released: Released, converse: Any) -> None:  # noqa: ANN401
    """Bedrock's body fits Amazon's description, and Amazon's serializer makes the same of it."""
    body = converse_body(released)
    values = {"modelId": "m", **_with_bytes(body)}
    report = ParamValidator().validate(values, converse.input_shape)
    assert report.generate_report() == ""
    made = create_serializer("rest-json").serialize_to_request(values, converse)
    assert json.loads(made["body"]) == body


def _with_bytes(value: Any) -> Any:  # noqa: ANN401  # JSON
    """As Amazon's library takes it: bytes where the wire has base64."""
    if isinstance(value, list):
        return [_with_bytes(one) for one in value]
    if isinstance(value, Mapping):
        return {
            name: base64.b64decode(one) if name == "bytes" else _with_bytes(one)
            for name, one in value.items()
        }
    return value


def test_tools_are_one_definition() -> None:
    """The same tool and the same conversation reach every format, with its result tied to its call."""
    chat = wire_of("groq", "m").body(FULL)
    assert chat["messages"][3] == {"role": "tool", "content": "a cat", "tool_call_id": "call_0"}
    response = ResponsesWire(model="m").body(FULL)["input"]
    assert response[2] == {"type": "function_call_output", "call_id": "call_0", "output": "a cat"}
    assert response[1]["arguments"] == '{"city": "Köln"}'
    messages = MessagesWire(model="m").body(FULL)["messages"]
    assert [turn["role"] for turn in messages] == ["user", "assistant", "user"]
    assert messages[1]["content"][0]["input"] == {"city": "Köln"}
    result = {"type": "tool_result", "tool_use_id": "call_0", "content": "a cat"}
    assert messages[2]["content"] == [result, {"type": "text", "text": "Sure?"}]
    contents = GeminiWire(model="gemini-2.5-flash").body(FULL)["contents"]
    answer = {"functionResponse": {"name": "look", "response": {"result": "a cat"}}}
    assert contents[2] == {"role": "user", "parts": [answer]}
    bedrock = converse_body(FULL)
    assert [turn["role"] for turn in bedrock["messages"]] == ["user", "assistant", "user"]
    schemas = [
        chat["tools"][0]["function"]["parameters"],
        ResponsesWire(model="m").body(FULL)["tools"][0]["parameters"],
        MessagesWire(model="m").body(FULL)["tools"][0]["input_schema"],
        GeminiWire(model="m").body(FULL)["tools"][0]["functionDeclarations"][0]["parametersJsonSchema"],
        bedrock["toolConfig"]["tools"][0]["toolSpec"]["inputSchema"]["json"],
    ]
    assert all(schema == SCHEMA for schema in schemas)


def test_several_results_are_one_turn() -> None:
    """Formats that alternate get the results of parallel calls in one turn."""
    calls = tuple(ToolCall(name="look", arguments={}, id=f"c{n}") for n in range(2))
    asked = (Message("user", "x"), Message("assistant", "", tool_calls=calls))
    results = tuple(Message("tool", str(n), tool_call_id=f"c{n}") for n in range(2))
    request = Released(
        messages=(*asked, *results), max_tokens=1, sampling=Sampling(), tools=(Tool(name="look"),)
    )
    for turns in (MessagesWire(model="m").body(request)["messages"], converse_body(request)["messages"]):
        assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
        assert len(turns[2]["content"]) == 2


def test_json_where_a_schema_is_kept() -> None:
    """A closed schema goes where the format has a place for it."""
    assert ResponsesWire(model="m").body(JSON)["text"]["format"]["strict"] is True
    held = MessagesWire(model="claude-sonnet-4-5").body(JSON)
    assert held["output_config"] == {"format": {"type": "json_schema", "schema": SCHEMA}}
    assert "system" not in held
    config = GeminiWire(model="m").body(JSON)["generationConfig"]
    assert (config["responseMimeType"], config["responseJsonSchema"]) == ("application/json", SCHEMA)


@pytest.mark.parametrize(
    ("body", "system"),
    [
        (MessagesWire(model="claude-opus-5").body(WISH), lambda body: body["system"]),
        (MessagesWire(model="claude-3-haiku-20240307").body(JSON), lambda body: body["system"]),
        (converse_body(JSON), lambda body: body["system"][0]["text"]),
        (prediction_body(JSON), lambda body: body["input"]["system_prompt"]),
        (wire_of("deepseek", "m").body(JSON), lambda body: body["messages"][0]["content"]),
    ],
)
def test_json_as_a_wish(body: Body, system: Any) -> None:  # noqa: ANN401  # lambdas
    """Where a model cannot be held to the schema, it is told it, and no option pretends otherwise."""
    assert '"city"' in system(body)
    assert "JSON" in system(body)
    assert not {"output_config", "outputConfig"} & set(body)
    assert body.get("response_format", {"type": "json_object"}) == {"type": "json_object"}


@pytest.mark.parametrize("model", ["claude-opus-4-7", "claude-sonnet-5", "claude-opus-5-20270101"])
def test_newer_claudes_take_no_sampling(model: str) -> None:
    """Models that refuse the sampling's fields are not sent them."""
    assert not {"temperature", "top_p", "top_k"} & set(MessagesWire(model=model).body(STOP))


@pytest.mark.parametrize(
    "model",
    [
        "claude-3-5-sonnet-20241022",
        "claude-opus-4-20250514",
        "claude-opus-4-1-20250805",
        "claude-sonnet-4-5",
        "claude-haiku-4-5-20251001",
        "claude-sonnet-4-6",
    ],
)
def test_older_claudes_are_greedy(model: str) -> None:
    """Older models get the temperature, and top_p only where it has an effect."""
    body = MessagesWire(model=model).body(STOP)
    assert (body["temperature"], body["top_k"], "top_p" in body) == (0.0, 4, False)


def test_mistral_is_strict() -> None:
    """Mistral refuses fields that it does not know, calls the seed otherwise, and wants short ids."""
    body = wire_of("mistral", "m").body(FULL)
    assert "stream_options" not in body
    assert "seed" not in body
    assert body["random_seed"] == 3
    ids = body["messages"][2]["tool_calls"][0]["id"], body["messages"][3]["tool_call_id"]
    assert ids[0] == ids[1]
    assert len(ids[0]) == 9
    assert ids[0].isalnum()


def test_gemini_3_wants_signatures() -> None:
    """A call in the history that another model made is marked as such for Gemini 3."""
    calls = [
        GeminiWire(model=m).body(FULL)["contents"][1]["parts"][0] for m in ("gemini-2.5-pro", "gemini-3-pro")
    ]
    assert ["thoughtSignature" in call for call in calls] == [False, True]


@pytest.mark.parametrize("released", [FULL, STOP])
def test_replicate_refuses(released: Released) -> None:
    """What Replicate's format has no place for is refused before anything is sent."""
    with pytest.raises(CloudProtocol, match="Replicate takes no"):
        prediction_body(released)


def test_replicate_conversation() -> None:
    """A single question goes as it is, a conversation with the names of its speakers."""
    assert prediction_body(PLAIN)["input"]["prompt"] == "hi"
    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    talk = prediction_body(Released(messages=turns, max_tokens=1, sampling=Sampling(seed=2)))["input"]
    assert talk["prompt"] == "User: a\n\nAssistant: b\n\nUser: c\n\nAssistant:"
    assert talk["seed"] == 2
