"""The table of providers, their keys, and where keys must not appear."""

import asyncio
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from edgeai import Edge, Policy
from edgeai.cloud import Cloud, CloudEnd, open_cloud
from edgeai.cloud.keys import Key
from edgeai.cloud.providers import PROVIDERS
from edgeai.economics import Price
from edgeai.errors import CloudAuth, CloudError, ConfigError
from edgeai.ledger import Ledger
from edgeai.net import Retry
from edgeai.prices import PriceTable
from edgeai.testing import FakeEngine
from tests.cloud.conversations import PLAIN
from tests.servers import answer, header, scripted

DOCS = Path(__file__).parent.parent.parent / "docs" / "providers.md"
SECRET = "sk-SECRET-4711"
REPLY = answer(
    "200 OK",
    b'data: {"choices": [{"delta": {"content": "yes"}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n',
    content_type="text/event-stream",
)
# What has an address of its own for every customer gets one here.
ADDRESSES = {
    "AZURE_OPENAI_ENDPOINT": "https://mine.openai.azure.com/",
    "DATABRICKS_HOST": "adb-1.azuredatabricks.net",
    "VERTEX_BASE_URL": "https://eu-aiplatform.googleapis.com/v1/projects/p/locations/eu/publishers/google",
    "AWS_REGION": "eu-west-1",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses but no keys, and no keyring of whoever runs the tests."""
    for name, value in ADDRESSES.items():
        monkeypatch.setenv(name, value)
    for provider in PROVIDERS.values():
        monkeypatch.delenv(provider.key_variable, raising=False)
    monkeypatch.setattr("edgeai.cloud.keys._from_keyring", lambda variable: None)


def ask(cloud: Cloud) -> list[Any]:
    async def collect() -> list[Any]:
        return [piece async for piece in cloud.stream(PLAIN)]

    return asyncio.run(collect())


@pytest.mark.parametrize("name", PROVIDERS)
def test_every_provider_opens(name: str) -> None:
    """Each has a model, an https address (or this machine's), a body, and a repr without much in it."""
    cloud = open_cloud(f"{name}:owner/model")
    assert cloud.model == "owner/model"
    assert cloud.endpoint.startswith("http://localhost:" if PROVIDERS[name].own else "https://")
    assert cloud.encode(PLAIN).startswith(b"{")
    assert re.fullmatch(r"<cloud [\w:/.-]+ at [\w:/.-]+>|\w+\('owner/model'.*\)", repr(cloud))


@pytest.mark.parametrize(
    ("spec", "endpoint"),
    [
        ("azure:gpt", "https://mine.openai.azure.com/openai/v1/chat/completions"),
        ("databricks:m", "https://adb-1.azuredatabricks.net/serving-endpoints/chat/completions"),
        ("gemini:g-2", "https://generativelanguage.googleapis.com/v1beta/models/g-2:streamGenerateContent"),
        ("vllm:q@http://10.0.0.5:8000/v1", "http://10.0.0.5:8000/v1/chat/completions"),
        ("vllm:org/q@v2@https://h.corp/v1/", "https://h.corp/v1/chat/completions"),
        ("ollama:qwen3:8b", "http://localhost:11434/v1/chat/completions"),
        ("openrouter:meta-llama/l:free", "https://openrouter.ai/api/v1/chat/completions"),
    ],
)
def test_addresses(spec: str, endpoint: str) -> None:
    """One spelling names provider, model and, where it is one's own, the address."""
    assert open_cloud(spec).endpoint == endpoint


def test_models_keep_their_colons_and_ats() -> None:
    """What stands in a model's name is not taken for an address."""
    assert open_cloud("ollama:qwen3:8b").model == "qwen3:8b"
    assert open_cloud("vllm:org/q@v2@https://h.corp/v1/").model == "org/q@v2"


@pytest.mark.parametrize("variable", ["AZURE_OPENAI_ENDPOINT", "DATABRICKS_HOST", "VERTEX_BASE_URL"])
def test_an_address_of_ones_own_is_asked_for(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an address there is an error that names the variable."""
    monkeypatch.delenv(variable)
    [name] = [name for name, provider in PROVIDERS.items() if provider.address_variable == variable]
    with pytest.raises(ConfigError, match=variable):
        open_cloud(f"{name}:m")


@pytest.mark.parametrize(
    "make",
    [
        lambda: open_cloud("vllm:m@http://a/v1", base_url="http://b/v1"),
        lambda: open_cloud("vllm:@http://a/v1"),
        lambda: open_cloud("vllm:m@http://me:pw@h/v1"),
        lambda: open_cloud("azure:m", base_url="https://h/v1?key=sk-1"),
        lambda: open_cloud("Anthropic:m"),
        lambda: open_cloud(":m"),
    ],
)
def test_bad_spellings(make: Any) -> None:  # noqa: ANN401  # lambdas
    """What cannot be meant is refused, without a password that is in it."""
    with pytest.raises(ConfigError) as caught:
        make()
    assert "pw@" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in PROVIDERS if not PROVIDERS[name].own])
def test_missing_key(name: str) -> None:
    """Without a key nothing is sent, and the error names the variable."""
    with pytest.raises(CloudAuth, match=PROVIDERS[name].key_variable) as caught:
        ask(open_cloud(f"{name}:m"))
    assert caught.value.sends == 0


def sent_key(cloud: Cloud, requests: list[bytes]) -> str:
    ask(cloud)
    return header(requests[-1], "authorization")


def test_where_keys_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Argument, then environment, then keyring; "" sends none."""
    monkeypatch.setattr("edgeai.cloud.keys._from_keyring", {"VLLM_API_KEY": "from-keyring"}.get)
    with scripted(lambda connection, request: connection.sendall(REPLY)) as server:
        spec = f"vllm:m@{server.url}/v1"
        assert sent_key(open_cloud(spec), server.requests) == "Bearer from-keyring"
        monkeypatch.setenv("VLLM_API_KEY", "from-environment")
        assert sent_key(open_cloud(spec), server.requests) == "Bearer from-environment"
        assert sent_key(open_cloud(spec, key="given"), server.requests) == "Bearer given"
        assert sent_key(open_cloud(spec, key=""), server.requests) == ""
        monkeypatch.setenv("OTHER", "other")
        assert sent_key(open_cloud(spec, key_variable="OTHER"), server.requests) == "Bearer other"


def test_a_key_is_for_its_provider_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider's key does not go to an address that is not the provider's, unless it is named."""
    monkeypatch.setenv("GROQ_API_KEY", SECRET)
    with scripted(lambda connection, request: connection.sendall(REPLY)) as server:
        assert sent_key(open_cloud("groq:m", base_url=server.url), server.requests) == ""
        named = open_cloud("groq:m", base_url=server.url, key_variable="GROQ_API_KEY")
        assert sent_key(named, server.requests) == f"Bearer {SECRET}"


def test_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keyring is asked under our name; one that is locked, or not there, has no key."""
    keyring = pytest.importorskip("keyring")
    monkeypatch.undo()
    monkeypatch.delenv("GROQ_API_KEY", raising=False)
    asked: list[tuple[str, str]] = []

    def get_password(service: str, name: str) -> str:
        asked.append((service, name))
        if name == "LOCKED":
            raise keyring.errors.KeyringLocked("no")
        return " from-keyring\n"

    monkeypatch.setattr(keyring, "get_password", get_password)
    assert asyncio.run(Key(variable="GROQ_API_KEY").find()) == "from-keyring"
    assert asked == [("edgeai", "GROQ_API_KEY")]
    with pytest.raises(CloudAuth, match="no LOCKED"):
        asyncio.run(Key(variable="LOCKED").find())
    monkeypatch.setitem(__import__("sys").modules, "keyring", None)
    assert asyncio.run(Key(variable="GROQ_API_KEY", needed=False).find()) == ""


@pytest.mark.parametrize("name", PROVIDERS)
def test_keys_are_nowhere(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """A server that repeats the key in all it says: it is in no error, log, repr, output or ledger."""
    caplog.set_level(logging.DEBUG, "edgeai")

    def script(connection: Any, request: bytes) -> None:  # noqa: ANN401
        assert SECRET.encode() in request
        replies = [
            answer("401 No", f'{{"error": {{"message": "bad {SECRET}"}}}}'.encode()),
            answer(
                "200 OK",
                f'data: {{"error": {{"message": "{SECRET}"}}}}\n\n'.encode(),
                content_type="text/event-stream",
            ),
            answer("200 OK", SECRET.encode(), content_type=f"text/{SECRET}"),
            answer("302 Found", location=f"https://evil.invalid/{SECRET}"),
        ]
        connection.sendall(replies[(len(server.requests) - 1) % len(replies)])

    path = tmp_path / "ledger.sqlite3"
    seen = []
    with scripted(script) as server:
        cloud = open_cloud(f"{name}:m", base_url=server.url, key=SECRET, retry=Retry(attempts=1))
        for _ in range(4):
            with pytest.raises(CloudError) as caught:
                ask(cloud)
            seen += [str(caught.value), repr(caught.value), repr(caught.value.__cause__)]
        policy = Policy(privacy="allow", prefer="cloud")
        with Edge(engine=FakeEngine("Here."), cloud=cloud, policy=policy, ledger=path) as edge:
            seen += [repr(edge.ask("What?")) for _ in range(4)]
    with Ledger.open(path) as ledger:
        seen += [repr(row) for row in ledger.rows()]
    seen += [repr(cloud), str(vars(cloud)), cloud.endpoint, caplog.text, *capfd.readouterr()]
    assert [text for text in seen if SECRET in text] == []
    assert SECRET.encode() not in path.read_bytes()


def test_prices(tmp_path: Path) -> None:
    """The price given, then one's own table, then the provider's list, at the provider's address only."""
    path = tmp_path / "prices.toml"
    path.write_text('date = 2026-11-01\n[clouds."vllm:*"]\nprompt_usd = 1\ncompletion_usd = 2\n')
    table, own = PriceTable.load(path), Price(prompt_usd=7, completion_usd=8)
    assert open_cloud("vllm:m").price is None
    assert open_cloud("vllm:m", prices=table).price == table.find("vllm:m")
    assert open_cloud("vllm:m", prices=table, price=own).price == own
    for spec in ("anthropic:claude-sonnet-4-5", "gemini:gemini-2.5-flash", "mistral:mistral-small-latest"):
        assert open_cloud(spec).price is not None, spec
    assert open_cloud("groq:llama-3.3-70b-versatile").price is not None
    assert open_cloud("groq:llama-3.3-70b-versatile", base_url="http://h/v1").price is None


def test_an_answer_of_every_kind_ends() -> None:
    """A cloud opened by name answers over the one carrier."""
    with scripted(lambda connection, request: connection.sendall(REPLY)) as server:
        *_, end = ask(open_cloud(f"lmstudio:m@{server.url}/v1"))
    assert isinstance(end, CloudEnd)


def test_table_of_the_docs() -> None:
    """docs/providers.md lists each provider with its key variable, and no other."""
    rows = re.findall(r"^\| `([\w-]+):…` \| [^|]* \| `(\w+)`", DOCS.read_text("utf-8"), re.MULTILINE)
    assert dict(rows) == {name: provider.key_variable for name, provider in PROVIDERS.items()}
