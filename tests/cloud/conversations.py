"""Requests that use everything, for the tests of all formats."""

from edgeai.types import Image, JsonSchema, Message, Released, Sampling, Text, Tool, ToolCall

SCHEMA: JsonSchema = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
OPEN_SCHEMA: JsonSchema = {"type": "object", "properties": {"city": {"type": "string"}}}
LOOK = Tool(name="look", description="Look.", parameters=SCHEMA)
PLAIN = Released(messages=(Message("user", "hi"),), max_tokens=7, sampling=Sampling())
TALK = (
    Message("system", "Be brief."),
    Message("user", [Text("What is this?"), Image(data=b"\x89PNG", media_type="image/png")]),
    Message("assistant", tool_calls=(ToolCall(name="look", arguments={"city": "Köln"}, id="call_0"),)),
    Message("tool", "a cat", tool_call_id="call_0"),
    Message("user", "Sure?"),
)
FULL = Released(
    messages=TALK, max_tokens=5, sampling=Sampling(temperature=0.5, top_p=0.9, seed=3), tools=(LOOK,)
)
JSON = Released(messages=PLAIN.messages, max_tokens=7, sampling=Sampling(), schema=SCHEMA)
WISH = Released(messages=PLAIN.messages, max_tokens=7, sampling=Sampling(), schema=OPEN_SCHEMA)
STOP = Released(messages=PLAIN.messages, max_tokens=7, sampling=Sampling(top_k=4), stop=("END",))
