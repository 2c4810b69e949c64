from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import Child, katan, llama_server

FORMATS = ("openai", "anthropic", "vertexai", "bedrock", "azure_openai")


@pytest.fixture(scope="session")
def katan_url() -> Iterator[str]:
    """The API of an llm-katan that speaks all its formats and wants the key "sk-right" in each."""
    keys = ",".join(f"{name}=sk-right" for name in FORMATS)
    with katan("--providers", ",".join(FORMATS), "--validate-keys", "--api-keys", keys) as server:
        yield server.url


@pytest.fixture(scope="session")
def llama_url(model_path: Path) -> Iterator[str]:
    """The API of llama-cpp-python's server with the default model."""
    with llama_server(model_path) as server:
        yield server.url


@pytest.fixture
def mortal_katan() -> Iterator[Child]:
    """An llm-katan that speaks slowly, to be killed while it does."""
    with katan("--chunk-delay-ms", "100") as server:
        yield server
