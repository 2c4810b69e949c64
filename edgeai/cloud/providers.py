"""The providers by name: address, key variable, price list, and how each differs from its format."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edgeai.cloud import Cloud
from edgeai.cloud.anthropic import MessagesWire
from edgeai.cloud.bedrock import BEARER, Bedrock
from edgeai.cloud.chat import ChatWire, TokenLimit
from edgeai.cloud.gemini import GeminiWire
from edgeai.cloud.http import HttpCloud, checked_host, is_loopback
from edgeai.cloud.keys import Key
from edgeai.cloud.openai import thinks_first
from edgeai.cloud.replicate import VARIABLE, Replicate
from edgeai.cloud.responses import ResponsesWire
from edgeai.cloud.wire import Wire
from edgeai.economics import Price
from edgeai.errors import ConfigError
from edgeai.net import Link, Retry, Timeouts

Format = Literal["chat", "responses", "messages", "gemini", "vertex", "converse", "prediction"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One row of the table. ``address_variable`` holds the address where each customer has one of his own.

    ``path`` follows that address; ``listed`` is genai-prices' name; the rest is for the chat format, see
    `edgeai.cloud.chat.ChatWire`. ``own`` is a server of one's own, for which a key is optional.
    """

    base_url: str = ""
    key_variable: str = ""
    listed: str | None = None
    format: Format = "chat"
    address_variable: str | None = None
    path: str = ""
    own: bool = False
    token_limit: TokenLimit = "max_tokens"
    json: Literal["json_schema", "json_object"] = "json_schema"
    asks_usage: bool = True
    seed: str | None = "seed"
    short_ids: bool = False
    key_header: str | None = None


def _own(port: int, name: str) -> Provider:
    return Provider(base_url=f"http://localhost:{port}/v1", key_variable=f"{name}_API_KEY", own=True)


PROVIDERS: Mapping[str, Provider] = {
    "openai": Provider(
        base_url="https://api.openai.com/v1",
        key_variable="OPENAI_API_KEY",
        listed="openai",
        token_limit="max_completion_tokens",
    ),
    "openai-responses": Provider(
        base_url="https://api.openai.com/v1",
        key_variable="OPENAI_API_KEY",
        listed="openai",
        format="responses",
    ),
    "anthropic": Provider(
        base_url="https://api.anthropic.com/v1",
        key_variable="ANTHROPIC_API_KEY",
        listed="anthropic",
        format="messages",
    ),
    "gemini": Provider(
        base_url="https://generativelanguage.googleapis.com/v1beta",
        key_variable="GEMINI_API_KEY",
        listed="google",
        format="gemini",
    ),
    "vertex": Provider(
        key_variable="VERTEX_ACCESS_TOKEN",
        listed="google",
        format="vertex",
        address_variable="VERTEX_BASE_URL",
    ),
    "azure": Provider(
        key_variable="AZURE_OPENAI_API_KEY",
        listed="azure",
        address_variable="AZURE_OPENAI_ENDPOINT",
        path="/openai/v1",
        token_limit="max_completion_tokens",
        key_header="api-key",
    ),
    "bedrock": Provider(key_variable=BEARER, listed="aws", format="converse"),
    "replicate": Provider(
        base_url="https://api.replicate.com/v1", key_variable=VARIABLE, format="prediction"
    ),
    "mistral": Provider(
        base_url="https://api.mistral.ai/v1",
        key_variable="MISTRAL_API_KEY",
        listed="mistral",
        asks_usage=False,
        seed="random_seed",
        short_ids=True,
    ),
    "groq": Provider(base_url="https://api.groq.com/openai/v1", key_variable="GROQ_API_KEY", listed="groq"),
    "together": Provider(
        base_url="https://api.together.xyz/v1", key_variable="TOGETHER_API_KEY", listed="together"
    ),
    "cerebras": Provider(
        base_url="https://api.cerebras.ai/v1", key_variable="CEREBRAS_API_KEY", listed="cerebras"
    ),
    "sambanova": Provider(
        base_url="https://api.sambanova.ai/v1", key_variable="SAMBANOVA_API_KEY", seed=None
    ),
    "databricks": Provider(
        key_variable="DATABRICKS_TOKEN",
        listed="databricks",
        address_variable="DATABRICKS_HOST",
        path="/serving-endpoints",
        asks_usage=False,
        seed=None,
    ),
    "deepseek": Provider(
        base_url="https://api.deepseek.com/v1",
        key_variable="DEEPSEEK_API_KEY",
        listed="deepseek",
        json="json_object",
        seed=None,
    ),
    "openrouter": Provider(
        base_url="https://openrouter.ai/api/v1", key_variable="OPENROUTER_API_KEY", listed="openrouter"
    ),
    "fireworks": Provider(
        base_url="https://api.fireworks.ai/inference/v1", key_variable="FIREWORKS_API_KEY", listed="fireworks"
    ),
    "xai": Provider(base_url="https://api.x.ai/v1", key_variable="XAI_API_KEY", listed="x-ai"),
    "vllm": _own(8000, "VLLM"),
    "sglang": _own(30000, "SGLANG"),
    "tensorrt-llm": _own(8000, "TENSORRT_LLM"),
    "llamacpp": _own(8080, "LLAMACPP"),
    "ollama": _own(11434, "OLLAMA"),
    "lmstudio": _own(1234, "LMSTUDIO"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What the app says itself about a cloud; None: what the table says."""

    key: str | None = None
    base_url: str | None = None
    key_variable: str | None = None
    price: Price | None = None
    timeouts: Timeouts | None = None
    retry: Retry | None = None
    link: Link | None = None


def connect(name: str, model: str, access: Access) -> Cloud:
    """The cloud of a known provider. Raises ConfigError when there is no address for it."""
    provider = PROVIDERS[name]
    if provider.format == "converse":
        return Bedrock(
            model,
            base_url=access.base_url,
            key=access.key,
            key_variable=access.key_variable,
            price=access.price,
            timeouts=access.timeouts,
            retry=access.retry,
            link=access.link,
        )
    base_url = _address(name, provider, access.base_url)
    at_home = provider.own or not provider.base_url or _same_host(base_url, provider.base_url)
    key = Key(
        value=access.key,
        variable=access.key_variable or (provider.key_variable if at_home else None),
        needed=not (provider.own or is_loopback(checked_host(base_url))),
    )
    if provider.format == "prediction":
        return Replicate(
            model,
            base_url=base_url,
            key=key,
            price=access.price,
            timeouts=access.timeouts,
            retry=access.retry,
            link=access.link,
        )
    return HttpCloud(
        f"{name}:{model}",
        model,
        wire_of(name, model),
        base_url=base_url,
        key=key,
        price=access.price,
        listed=provider.listed if at_home else None,
        timeouts=access.timeouts,
        retry=access.retry,
        link=access.link,
    )


def wire_of(name: str, model: str) -> Wire:
    """The format that this provider speaks for this model, if it is one over server-sent events."""
    provider = PROVIDERS[name]
    match provider.format:
        case "messages":
            return MessagesWire(model=model)
        case "gemini" | "vertex":
            return GeminiWire(model=model, bears_token=provider.format == "vertex")
        case "responses":
            return ResponsesWire(model=model, fixed_sampling=thinks_first(model))
        case _:
            return ChatWire(
                model=model,
                token_limit=provider.token_limit,
                json=provider.json,
                asks_usage=provider.asks_usage,
                seed=provider.seed,
                short_ids=provider.short_ids,
                key_header=provider.key_header,
                fixed_sampling=provider.token_limit == "max_completion_tokens" and thinks_first(model),
            )


def key_variable(name: str) -> str:
    """The environment variable, or the keyring's entry, in which this provider's key is looked for."""
    return PROVIDERS[name].key_variable


def _address(name: str, provider: Provider, given: str | None) -> str:
    """The address with its path: the one given, the provider's, or that of the customer's variable."""
    variable = provider.address_variable
    address = given or provider.base_url or (os.environ.get(variable, "") if variable else "")
    if not address:
        raise ConfigError(
            f"{name} has a different address for every customer", remedy=f"Set {variable}, or give base_url=…"
        )
    if variable and "://" not in address:
        address = f"https://{address}"
    address = address.rstrip("/")
    return address if not provider.path or address.endswith(provider.path) else address + provider.path


def _same_host(one: str, other: str) -> bool:
    return checked_host(one) == checked_host(other)
