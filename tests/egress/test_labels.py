"""What labels, redaction and documents do to a request."""

import json
from typing import Literal, TypedDict, Unpack

import pytest

from edgeai.egress import LabelRule, Redaction, read_rules, release
from edgeai.egress.outbound import PLACEHOLDER_NOTE
from edgeai.errors import ConfigError, PrivacyViolation
from edgeai.types import Image, JsonSchema, Message, Request, Role, Text, Tool, ToolCall

HERE, THERE = "https://eu.example.org/v1/chat", "https://us.example.org/v1/chat"
RULES = read_rules(
    {
        "health": "local",
        "sales": LabelRule(privacy="redact", endpoints=("https://eu.example.org",)),
        "public": "allow",
    }
)
SECRET = "ana@example.com"


class Rest(TypedDict, total=False):
    tools: tuple[Tool, ...]
    choices: tuple[str, ...]
    examples: tuple[tuple[str, str], ...]
    schema: JsonSchema


def sent(
    *messages: Message,
    privacy: Literal["redact", "allow"] = "allow",
    endpoint: str = HERE,
    **more: Unpack[Rest],
) -> str:
    """Everything that would be released, as one text."""
    leaving = release(Request(messages=messages, **more), privacy=privacy, endpoint=endpoint, labels=RULES)
    return repr(leaving.released)


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
@pytest.mark.parametrize("label", ["health", "unknown", "public, health", "public, unknown"])
def test_denied(role: Role, label: str) -> None:
    """A label without a rule, or with one that says local, stops the query, in any role and any part."""
    question = Message("user", "q")
    for message in (
        Message(role, "x", label=label),
        Message(role, [Text("x", label=label)]),
        Message(role, [Text("ok", label="public"), Image(data=b"x", label=label)]),
    ):
        with pytest.raises(PrivacyViolation, match=r"health|unknown"):
            sent(message, question)


def test_endpoints() -> None:
    """A rule's endpoint is a place, not a prefix of a text."""
    message = Message("user", f"mail {SECRET} about the offer", label="sales")
    assert SECRET not in sent(message)
    for other in (
        THERE,
        "https://eu.example.org.evil.com/v1",
        "http://eu.example.org/v1",
        "https://eu.example.org:8443",
    ):
        with pytest.raises(PrivacyViolation, match="may not be sent to"):
            sent(message, endpoint=other)
    assert LabelRule(privacy="allow", endpoints=("https://a.org/v1",)).reaches("https://a.org:443/v1/chat")
    assert not LabelRule(privacy="allow", endpoints=("https://a.org/v1",)).reaches("https://a.org/v1/../x")
    assert not LabelRule(privacy="allow", endpoints=("https://a.org/v1",)).reaches("https://a.org/v10")


def test_private_parts() -> None:
    """A private part keeps the whole query here, as a private message does."""
    with pytest.raises(PrivacyViolation, match="private"):
        sent(Message("user", [Text("hi"), Text("pin", private=True)]))


def test_rules_mix() -> None:
    """A part that is labelled public goes as it is, and the strictest of several labels holds."""
    talk = Message(
        "user",
        [
            Text(f"{SECRET} is public.", label="public"),
            Text("Mail bob@example.com about it please, before Friday if you can"),
        ],
    )
    out = sent(talk, privacy="redact")
    assert SECRET in out
    assert "bob@example.com" not in out
    assert SECRET not in sent(
        Message("user", [Text(f"I am {SECRET}, hello to all of you there", label="public, sales")])
    )


@pytest.mark.parametrize("rules", [[], {"a": "open"}, {"a,b": "local"}, {"": "local"}, {1: "local"}])
def test_bad_rules(rules: object) -> None:
    """A rule that says nothing clear is a ConfigError."""
    with pytest.raises(ConfigError):
        read_rules(rules)


def test_everywhere() -> None:
    """Secrets are replaced in every place a cloud reads, with the same placeholder."""
    call = ToolCall(name="look", arguments={"to": [SECRET], SECRET: 1})
    talk = (
        Message("system", f"You serve {SECRET} and you do it well."),
        Message("assistant", "", tool_calls=(call,)),
        Message("user", [Text("Please write to ana@exam"), Text("ple.com about the dinner")]),
    )
    schema = {"type": "object", "properties": {"x": {"enum": [SECRET]}}}
    leaving = release(Request(messages=talk, stop=(SECRET,), schema=schema), privacy="redact", labels=RULES)
    assert SECRET not in repr(leaving.released)
    assert SECRET not in repr(leaving)
    assert leaving.redactions == {"EMAIL": 6}
    assert leaving.originals == {"<EMAIL_1>": SECRET}
    assert leaving.released.messages[0].text == PLACEHOLDER_NOTE
    tool = Tool(name="look", description=f"asks {SECRET}", parameters={"type": "object", "title": SECRET})
    assert SECRET not in sent(Message("user", "q"), privacy="redact", tools=(tool,))
    assert SECRET not in sent(
        Message("user", "q"), privacy="redact", choices=("a", SECRET), examples=((SECRET, SECRET),)
    )


def test_where_no_placeholder_can_stand() -> None:
    """An image, a tool's name or a call's id with a secret keeps the query here."""
    image = Message("user", [Text("what?"), Image(data=b"x")])
    with pytest.raises(PrivacyViolation, match="image"):
        sent(image, privacy="redact")
    for bad in (ToolCall(name="look", arguments={}, id=SECRET), ToolCall(name=SECRET, arguments={})):
        with pytest.raises(PrivacyViolation, match="EMAIL"):
            sent(Message("assistant", "", tool_calls=(bad,)), Message("user", "q"), privacy="redact")


def test_too_much_is_secret() -> None:
    """A question of which little would be left stays; the limit is the app's."""
    request = Request(messages=(Message("user", f"mail {SECRET}"),))
    with pytest.raises(PrivacyViolation, match="79%"):
        release(request, privacy="redact")
    release(request, privacy="redact", redaction=Redaction(max_share=0.9))


def test_placeholders_stay_the_same_in_later_turns() -> None:
    """The numbers follow the conversation, also where it is not sent, and avoid what is written."""
    talk = (
        Message("user", "I often write to <EMAIL_1> or to first@example.com, as you know"),
        Message("assistant", "ok"),
        Message(
            "user",
            "What would second@example.com and first@example.com say to this, were they here with us today?",
        ),
    )
    leaving = release(Request(messages=talk), privacy="redact", disclose="question")
    assert (
        leaving.released.messages[-1].text
        == "What would <EMAIL_3> and <EMAIL_2> say to this, were they here with us today?"
    )


def test_documents_are_shortened() -> None:
    """Of a long document only the passages that have to do with the question leave, and what frames it."""
    animals = ["cat", "dog", "owl", "fox"] * 10
    document = "\n\n".join(f"Chapter {at}. The {animal} sleeps all day." for at, animal in enumerate(animals))
    talk = Message(
        "user", f"Read this.\n\n{document}\n\nzebra colours\n\nIn which colours does a zebra come?"
    )
    leaving = release(Request(messages=(talk,)), privacy="allow", document_chars=200)
    text = leaving.released.messages[0].text
    assert len(text) < 260
    assert text.startswith("Read this.")
    assert "zebra colours" in text
    assert "[…]" in text
    assert text.endswith("In which colours does a zebra come?")
    assert json.dumps(document) not in json.dumps(text)
