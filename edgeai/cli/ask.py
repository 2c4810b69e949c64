"""`edgeai ask`: one question, one answer."""

import sys
from typing import Annotated

import typer

from edgeai.cli import options
from edgeai.cli.exits import Exit
from edgeai.errors import ConfigError, EngineError

AUDIT_S = 30.0
"""How long a rare audit may go on when the answer is there already; Ctrl-C ends it."""

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(context_settings={"allow_extra_args": True})
def ask(
    context: typer.Context,
    question: Annotated[str | None, typer.Argument(help="The question; without it stdin is read.")] = None,
    *,
    system: options.System = None,
    model: options.Model = None,
    engine: options.Engine = None,
    isolation: options.Isolation = None,
    n_ctx: options.Context = None,
    device: options.Device = None,
    allow_fallback: options.AllowFallback = None,
    cloud: options.Cloud = None,
    cloud_base_url: options.CloudBaseUrl = None,
    cloud_key_variable: options.CloudKeyVariable = None,
    privacy: options.Privacy = None,
    min_score: options.MinScore = None,
    contract: options.Contract = None,
    deadline: options.Deadline = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    seed: options.Seed = None,
    schema: options.Schema = None,
    adapter: options.Adapter = None,
    ledger: options.UseLedger = None,
    json: options.Json = False,
) -> None:
    """Ask one question; the answer streams to stdout, what it cost to stderr.

    The model is pulled first if it is not on this device yet.
    """
    from edgeai import Message
    from edgeai.cli.opening import may_leave, open_edge
    from edgeai.cli.output import write_json
    from edgeai.cli.screen import show, write_summary

    if context.args:
        words = " ".join([question or "", *context.args])
        raise ConfigError("The question is several words", remedy=f'Put it in quotes: edgeai ask "{words}"')
    adapters = options.read_adapter(adapter)
    keywords = options.call_options(
        max_tokens=max_tokens, temperature=temperature, seed=seed, schema=schema, adapters=adapters
    )
    asked = [Message("user", _question(question))]
    prompt = asked if system is None else [Message("system", system), *asked]
    settings = options.read_settings(
        {
            "model": model,
            "engine": engine,
            "isolation": isolation,
            "n_ctx": n_ctx,
            "device": device,
            "allow_fallback": allow_fallback,
            "cloud": cloud,
            "cloud_base_url": cloud_base_url,
            "cloud_key_variable": cloud_key_variable,
            "privacy": privacy,
            "min_score": min_score,
            "contract": contract,
            "deadline_s": deadline,
            "ledger": ledger,
        }
    )
    with open_edge(settings, adapters) as edge:
        stream = edge.stream(prompt, **keywords)
        if json:
            answer = stream.answer()
            write_json(answer)
        else:
            answer = show(stream, may_leave=may_leave(settings))
            write_summary(answer)
            if settings.contract:
                typer.echo(answer.explanation, err=True)
        edge.wait_for_audits(AUDIT_S)
    if answer.finish_reason == "cancelled":
        raise typer.Exit(Exit.STOPPED)
    if schema is not None and answer.finish_reason == "length":
        raise EngineError("The answer was cut off, and is not whole JSON", remedy="Raise --max-tokens")


def _question(given: str | None) -> str:
    if (given is None or given == "-") and sys.stdin.isatty():
        raise ConfigError("Nothing was asked", remedy='Write the question: edgeai ask "Why is the sky blue?"')
    try:
        asked = sys.stdin.read() if given is None or given == "-" else given
        asked.encode()  # where the locale is C, bytes that are no text come as lone surrogates
    except UnicodeError as error:
        raise ConfigError("The question is not valid text", why=str(error), remedy="Use UTF-8") from error
    return asked
