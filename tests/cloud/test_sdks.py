"""The providers' own libraries read the same streams as we do, and ask in the same way."""

import socket
from collections.abc import Callable

import anthropic
import botocore.session
import openai
import pytest
from google import genai

from edgeai.cloud import CloudEnd
from tests.cloud.test_hostile import RECORDINGS, WORDS, ask
from tests.servers import answer, header, scripted

pytestmark = pytest.mark.soak  # loading five libraries takes seconds
Counts = tuple[int | None, int | None]


def by_openai(url: str) -> tuple[str, Counts]:
    client = openai.OpenAI(api_key="k", base_url=f"{url}/v1", max_retries=0)
    chunks = list(
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}], stream=True)
    )
    usage = next(chunk.usage for chunk in chunks if chunk.usage)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    return text, (usage.prompt_tokens, usage.completion_tokens)


def by_openai_responses(url: str) -> tuple[str, Counts]:
    client = openai.OpenAI(api_key="k", base_url=f"{url}/v1", max_retries=0)
    text = ""
    counts: Counts = None, None
    for event in client.responses.create(model="m", input="hi", stream=True):
        if event.type == "response.output_text.delta":
            text += event.delta
        elif event.type == "response.completed" and event.response.usage:
            counts = event.response.usage.input_tokens, event.response.usage.output_tokens
    return text, counts


def by_anthropic(url: str) -> tuple[str, Counts]:
    client = anthropic.Anthropic(api_key="k", base_url=url, max_retries=0)
    with client.messages.stream(
        model="m", max_tokens=5, messages=[{"role": "user", "content": "hi"}]
    ) as stream:
        text, message = "".join(stream.text_stream), stream.get_final_message()
    return text, (message.usage.input_tokens, message.usage.output_tokens)


def by_gemini(url: str) -> tuple[str, Counts]:
    client = genai.Client(api_key="k", http_options={"base_url": url})
    chunks = list(client.models.generate_content_stream(model="m", contents="hi"))
    usage = chunks[-1].usage_metadata
    assert usage is not None
    return "".join(chunk.text or "" for chunk in chunks), (
        usage.prompt_token_count,
        usage.candidates_token_count,
    )


def by_botocore(url: str) -> tuple[str, Counts]:
    session = botocore.session.Session()
    session.set_credentials("AKIA", "secret")
    client = session.create_client("bedrock-runtime", region_name="r", endpoint_url=url)
    events = list(
        client.converse_stream(modelId="m", messages=[{"role": "user", "content": [{"text": "hi"}]}])[
            "stream"
        ]
    )
    text = "".join(
        event["contentBlockDelta"]["delta"]["text"] for event in events if "contentBlockDelta" in event
    )
    usage = next(event["metadata"]["usage"] for event in events if "metadata" in event)
    return text, (usage["inputTokens"], usage["outputTokens"])


THEIRS: dict[str, tuple[Callable[[str], tuple[str, Counts]], tuple[str, ...]]] = {
    "openai": (by_openai, ("authorization",)),
    "openai-responses": (by_openai_responses, ("authorization",)),
    "anthropic": (
        by_anthropic,
        (),
    ),  # it asks for a newer version of the API, and shows the key as a bearer's
    "gemini": (by_gemini, ("x-goog-api-key",)),
    "bedrock": (by_botocore, ()),  # its signature is compared in test_bedrock
}


VERSIONS = {"openai": b"/v1", "openai-responses": b"/v1", "anthropic": b"/v1", "gemini": b"/v1"}


@pytest.mark.parametrize("name", RECORDINGS)
def test_the_same_as_theirs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider's library asks at the same address with the same headers, and reads the same answer."""
    for variable in ("GOOGLE_API_KEY", "GEMINI_API_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    recording, asked = RECORDINGS[name], list[bytes]()
    theirs, names = THEIRS[name]

    def script(connection: socket.socket, request: bytes) -> None:
        asked.append(request)
        connection.sendall(answer("200 OK", b"".join(recording.events), content_type=recording.kind))

    with scripted(script) as server:
        text, counts = theirs(server.url)
    ours, end = ask(script, name)
    assert isinstance(end, CloudEnd)
    assert (ours, end.usage.prompt_tokens, end.usage.completion_tokens) == (text, *counts)
    assert text == "".join(WORDS)
    first, second = asked
    path, version = first.split(b" ")[1], VERSIONS.get(name, b"")
    assert path == version + second.split(b" ")[1]  # ours has it in the address, here the server's
    assert [header(first, field) for field in names] == [header(second, field) for field in names]
