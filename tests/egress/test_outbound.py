import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeai.cloud.openai import OpenAI
from edgeai.egress import ask_for_label, disclosed, parse_disclose, read_label, release
from edgeai.errors import CloudProtocol, ConfigError, PrivacyViolation
from edgeai.types import Message, Request, Role, Sampling, Tool, ToolCall

TALK = (
    Message("system", "S"),
    Message("user", "q1"),
    Message("assistant", "a1"),
    Message("user", "q2"),
    Message("assistant", "a2"),
    Message("user", "q3"),
)
ROLES: list[Role] = ["system", "user", "assistant", "tool"]
TALKS = st.lists(st.tuples(st.sampled_from(ROLES), st.booleans()), min_size=1, max_size=8).map(
    lambda drawn: tuple(
        Message(role, f"<<{role} {at}>>", private=private) for at, (role, private) in enumerate(drawn)
    )
)
DISCLOSE = st.sampled_from(["all", "question", "turns:0", "turns:1", "turns:2", "turns:99"])


def texts(*messages: Message) -> list[str]:
    return [message.text for message in messages]


def test_everything_is_passed_on() -> None:
    """What a cloud can take arrives in the Released."""
    tool = Tool(name="look")
    request = Request(messages=TALK, max_tokens=9, sampling=Sampling(temperature=1, seed=2), stop=("x",))
    released = release(request, privacy="allow", disclose="all").released
    assert released.messages == TALK
    assert (released.max_tokens, released.sampling, released.stop) == (9, request.sampling, ("x",))
    assert release(Request(messages=TALK, tools=(tool,)), privacy="allow", disclose="all").released.tools == (
        tool,
    )
    schema = {"type": "object"}
    assert (
        release(Request(messages=TALK, schema=schema), privacy="allow", disclose="all").released.schema
        == schema
    )


@pytest.mark.parametrize("privacy", ["local", "", "ALLOW", "Redact", None])
def test_only_allow_allows(privacy: str) -> None:
    """Any policy but "allow", also a misspelled one, releases nothing."""
    with pytest.raises(PrivacyViolation):
        release(Request(messages=TALK), privacy=privacy, disclose="all")  # type: ignore[arg-type]  # the point


@pytest.mark.parametrize(
    ("disclose", "sent"),
    [
        ("all", ["S", "q1", "a1", "q2", "a2", "q3"]),
        ("question", ["S", "q3"]),
        ("turns:0", ["S", "q3"]),
        ("turns:1", ["S", "q2", "a2", "q3"]),
        ("turns:2", ["S", "q1", "a1", "q2", "a2", "q3"]),
        ("turns:9", ["S", "q1", "a1", "q2", "a2", "q3"]),
    ],
)
def test_disclose(disclose: str, sent: list[str]) -> None:
    """The question, so many exchanges before it, and the system messages."""
    assert (
        texts(*release(Request(messages=TALK), privacy="allow", disclose=disclose).released.messages) == sent
    )


@pytest.mark.parametrize(
    "disclose", ["", "none", "turns", "turns:", "turns:-1", "turns:1.5", "turns:٣", "Question", 3]
)
def test_unknown_disclose(disclose: str) -> None:
    """A misspelled disclose is a ConfigError, never "all"."""
    with pytest.raises(ConfigError, match="disclose"):
        parse_disclose(disclose)


def test_question_with_its_tools() -> None:
    """Results of the tools that the question needed belong to it; a greeting before it does not."""
    call = ToolCall(name="look", arguments={})
    talk = (
        Message("assistant", "Welcome!"),
        Message("user", "q"),
        Message("assistant", tool_calls=(call,)),
        Message("tool", "result", tool_call_id="call_0"),
    )
    assert disclosed(talk, 0) == talk[1:]


@given(TALKS, DISCLOSE)
def test_private_never_leaves(talk: tuple[Message, ...], disclose: str) -> None:
    """Either nothing is released, or no byte of a private message is."""
    request = Request(messages=talk)
    try:
        body = OpenAI("m").encode(release(request, privacy="allow", disclose=disclose).released).decode()
    except PrivacyViolation:
        assert any(message.private for message in talk)
    else:
        assert not any(message.text in body for message in talk if message.private)


@given(TALKS)
def test_question_has_no_earlier_turns(talk: tuple[Message, ...]) -> None:
    """With "question" nothing said before the last user message leaves, except by the system."""
    public = tuple(Message(message.role, message.text) for message in talk)
    body = (
        OpenAI("m")
        .encode(release(Request(messages=public), privacy="allow", disclose="question").released)
        .decode()
    )
    users = [at for at, message in enumerate(public) if message.role == "user"]
    earlier = public[: users[-1]] if users else ()
    assert not any(message.text in body for message in earlier if message.role != "system")
    assert all(message.text in body for message in public if message.role == "system")


@given(TALKS, st.integers(0, 9))
def test_more_turns_disclose_more(talk: tuple[Message, ...], n: int) -> None:
    """A larger n never sends less, and all is the limit."""
    fewer, more = disclosed(talk, n), disclosed(talk, n + 1)
    assert set(fewer) <= set(more) <= set(disclosed(talk, None))
    assert disclosed(talk, len(talk)) == talk


def test_private_message_that_is_not_sent() -> None:
    """A private message outside what is disclosed is no obstacle: it stays here."""
    talk = (Message("user", "my pin", private=True), Message("assistant", "ok"), Message("user", "q"))
    assert texts(
        *release(Request(messages=talk), privacy="allow", disclose="question").released.messages
    ) == ["q"]
    with pytest.raises(PrivacyViolation):
        release(Request(messages=talk), privacy="allow", disclose="all")


def test_grammar_is_not_dropped() -> None:
    """A grammar that no cloud keeps to is an error, not ignored."""
    with pytest.raises(CloudProtocol, match="grammar"):
        release(Request(messages=TALK, grammar="start: /a/"), privacy="allow", disclose="all")


def test_choices_become_a_prompt() -> None:
    """Labels in one system message, examples as exchanges before the question."""
    request = Request(messages=TALK[:2], choices=("billing", "other"), examples=(("pay", "billing"),))
    sent = release(request, privacy="allow", disclose="question").released.messages
    assert [message.role for message in sent] == ["system", "user", "assistant", "user"]
    assert texts(*sent[1:]) == ["pay", "billing", "q1"]
    assert sent[0].text.startswith("S\n\n")
    assert sent[0].text.endswith("\nbilling\nother")
    assert ask_for_label((Message("user", "q"),), ("a", "b"), ())[0].role == "system"


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("billing", "billing"),
        (" billing\n", "billing"),
        ("Billing.", "billing"),
        ('"billing"', "billing"),
        ("**billing**", "billing"),
        ("`Not  sure`", "not sure"),
        ("billing, shipping", None),
        ("The label is billing", None),
        ("", None),
        ("...", None),
        ("C", "C"),
        ("c", "C"),
        ("C.", None),
        ("c++", "C++"),
        ("a", "A"),
        ("ÄRGER!", "Ärger"),
    ],
)
def test_read_label(text: str, label: str | None) -> None:
    """A label is found through case, quotes and punctuation, and anything doubtful is None."""
    assert read_label(text, ("billing", "shipping", "not sure", "C", "C++", "A", "Ärger")) == label


@given(st.lists(st.text(min_size=1), min_size=2, max_size=5, unique=True), st.data())
def test_exact_label_is_always_found(choices: list[str], data: st.DataObject) -> None:
    """Whatever the labels are, each is found when the cloud gives it exactly."""
    label = data.draw(st.sampled_from(choices))
    assert read_label(label, choices) == label
