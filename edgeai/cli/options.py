"""The options that verbs share, and what becomes of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeai.errors import ConfigError
from edgeai.types import CallOptions

if TYPE_CHECKING:
    from edgeai.config import Settings


def complete_model(incomplete: str) -> list[str]:
    """Names of the catalog and ids of the store, for the shell's completion."""
    from edgeai.models import catalog, store

    names = {entry.name for entry in catalog.entries()} | {model.id for model in store.installed()}
    return sorted(name for name in names if name.startswith(incomplete))


Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="A catalog name, or the path of a .gguf file.", autocompletion=complete_model
    ),
]
Engine = Annotated[str | None, typer.Option(help="auto, llamacpp or onnx.")]
Isolation = Annotated[
    str | None, typer.Option(help="process: the engine in a process of its own. auto, thread.")
]
Context = Annotated[int | None, typer.Option("--n-ctx", help="Tokens of prompt and answer together.")]
Device = Annotated[
    str | None, typer.Option(help='"cpu", "gpu", "npu", or a provider such as "cuda", "vulkan" or "qnn".')
]
AllowFallback = Annotated[
    bool | None,
    typer.Option("--allow-fallback/--no-fallback", help="Use the processor where --device cannot be had."),
]
Cloud = Annotated[
    str | None, typer.Option(help='The bigger model, such as "openai:gpt-4o-mini"; several, cheap first.')
]
CloudBaseUrl = Annotated[
    str | None, typer.Option("--cloud-base-url", help="The address of an OpenAI-compatible server.")
]
CloudKeyVariable = Annotated[
    str | None, typer.Option("--cloud-key-variable", help="The environment variable with its API key.")
]
Privacy = Annotated[
    str | None,
    typer.Option(
        help="local: nothing leaves this device. allow: the cloud may be asked. "
        "redact: it may, with secrets replaced."
    ),
]
MinScore = Annotated[
    float | None, typer.Option("--min-score", help="Ask the cloud below this score, 0 to 1.")
]
Contract = Annotated[
    str | None,
    typer.Option(help="A contract's file: what it keeps is certified, what it does not keep may leave."),
]
Deadline = Annotated[float | None, typer.Option("--deadline", help="Seconds for the whole answer.")]
WhenFull = Annotated[
    str | None,
    typer.Option(
        "--when-full",
        help="Beyond the context: error, shift (leave the oldest turns out), or escalate (ask the cloud).",
    ),
]
UseLedger = Annotated[bool | None, typer.Option("--ledger/--no-ledger", help="Record the query.")]

System = Annotated[str | None, typer.Option("--system", "-s", help="What the model should be or do.")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", help="The longest answer, in tokens.")]
Temperature = Annotated[float | None, typer.Option(help="0: always the likeliest token.")]
Seed = Annotated[int | None, typer.Option(help="Makes sampling repeatable.")]
Schema = Annotated[
    Path | None, typer.Option(help="A file with a JSON schema, which the answer will fit.", dir_okay=False)
]
Adapter = Annotated[
    str | None,
    typer.Option(metavar="NAME=PATH", help="A LoRA adapter (GGUF) to answer under, and what to call it."),
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON to stdout, errors as JSON to stderr.")]


def read_settings(given: "Mapping[str, object]") -> "Settings":
    """The settings with the options that were given. Raises ConfigError, which names the option."""
    from edgeai.config import Settings

    return Settings.load(given, spell=lambda name: f"--{name.removesuffix('_s').replace('_', '-')}")


def call_options(
    *,
    max_tokens: int | None = None,
    temperature: float | None = None,
    seed: int | None = None,
    schema: Path | None = None,
    adapters: Mapping[str, Path] = MappingProxyType({}),
) -> CallOptions:
    """The keywords of a call that were given. Raises ConfigError for a schema that is none."""
    options: CallOptions = {}
    if max_tokens is not None:
        options["max_tokens"] = max_tokens
    if temperature is not None:
        options["temperature"] = temperature
    if seed is not None:
        options["seed"] = seed
    if schema is not None:
        options["schema"] = read_schema(schema)
    for name in adapters:
        options["adapter"] = name
    return options


def read_adapter(given: str | None) -> dict[str, Path]:
    """What --adapter names, at most one. Raises ConfigError."""
    if given is None:
        return {}
    name, _, path = given.partition("=")
    if not name or not path:
        raise ConfigError(f"--adapter is {given!r}", remedy="Write NAME=PATH, as support=support.gguf")
    return {name: Path(path)}


def read_schema(path: Path) -> dict[str, Any]:
    """The JSON schema in a file. Raises ConfigError for what is none."""
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} is not a JSON schema", why=str(error), remedy="Give a JSON file"
        ) from error
    if not isinstance(schema, dict):
        raise ConfigError(f"{path} is not a JSON schema", why="It is JSON, but not an object")
    return schema
