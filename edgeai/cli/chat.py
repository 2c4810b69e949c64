"""`edgeai chat`: a conversation in the terminal."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path

import typer

from edgeai import Chat, Message
from edgeai.cli import options
from edgeai.errors import ConfigError, EdgeError
from edgeai.types import CallOptions

app = typer.Typer(add_completion=False, rich_markup_mode=None)

PROMPT = "› "
HELP = """\
/system TEXT  what the model should be or do from now on; without TEXT it is shown
/clear        forget the conversation
/save FILE    write the conversation to a file
/help         this list
/exit         leave; Ctrl-D does too. Ctrl-C stops an answer."""


@app.command()
def chat(
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
    when_full: options.WhenFull = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    seed: options.Seed = None,
    adapter: options.Adapter = None,
    ledger: options.UseLedger = None,
    json: options.Json = False,
) -> None:
    """Talk; the model remembers the turns, and each answer says where it came from.

    With --json each line of stdin is a turn, and each answer, or its error, one line of JSON.
    """
    from edgeai.cli.opening import may_leave, open_edge

    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # one bad byte must not end the conversation
    adapters = options.read_adapter(adapter)
    keywords = options.call_options(
        max_tokens=max_tokens, temperature=temperature, seed=seed, adapters=adapters
    )
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
            "when_full": when_full,
            "ledger": ledger,
        }
    )
    with open_edge(settings, adapters) as edge:
        conversation = edge.chat(system)
        if json:
            _answer_lines(conversation, keywords)
            return
        typer.echo(f"{edge.info.model} on this device. /help lists the commands.", err=True)
        Talk(chat=conversation, options=keywords, may_leave=may_leave(settings)).run()


def _answer_lines(conversation: Chat, keywords: CallOptions) -> None:
    from edgeai.cli.output import describe, write_json_line

    for line in filter(None, map(str.strip, sys.stdin)):
        try:
            write_json_line(conversation.ask(line, **keywords))
        except EdgeError as error:  # the conversation goes on
            write_json_line(describe(error))


@dataclass(slots=True, kw_only=True)
class Talk:
    """A conversation with a person at a terminal. What is typed is remembered in memory only."""

    chat: Chat
    options: CallOptions
    may_leave: bool

    def run(self) -> None:
        """Read and answer lines until /exit or the end of input."""
        with suppress(ImportError):  # Windows has its own line editing
            import readline  # noqa: F401  # input() uses it once it is loaded

        for line in _lines():
            if line in ("/exit", "/quit"):
                return
            try:
                self._obey(line) if line.startswith("/") else self._answer(line)
            except EdgeError as error:  # the conversation goes on
                typer.echo(f"error: {error}", err=True)

    def _answer(self, line: str) -> None:
        from edgeai.cli.screen import show, write_summary

        write_summary(show(self.chat.stream(line, **self.options), may_leave=self.may_leave))

    def _obey(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "/help": self._help,
            "/clear": self._clear,
            "/system": self._system,
            "/save": self._save,
        }
        if word not in commands:
            raise ConfigError(f"There is no command {word}", remedy="/help lists the commands")
        commands[word](rest.strip())

    def _help(self, rest: str) -> None:
        typer.echo(HELP, err=True)

    def _clear(self, rest: str) -> None:
        self.chat.messages[:] = _system_of(self.chat.messages)
        typer.echo("The conversation is forgotten.", err=True)

    def _system(self, rest: str) -> None:
        if rest:
            turns = [turn for turn in self.chat.messages if turn.role != "system"]
            self.chat.messages[:] = [Message("system", rest), *turns]
        current = [turn.text for turn in _system_of(self.chat.messages)]
        typer.echo(f"System: {current[0] if current else 'none'}", err=True)

    def _save(self, rest: str) -> None:
        if not rest:
            raise ConfigError("No file was named", remedy="/save FILE")
        text = "\n".join(f"## {turn.role}\n\n{turn.text}\n" for turn in self.chat.messages)
        path = Path(rest).expanduser()
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path} cannot be written", why=error.strerror) from error
        typer.echo(f"Saved {len(self.chat.messages)} turns to {path}.", err=True)


def _system_of(messages: Sequence[Message]) -> list[Message]:
    return [turn for turn in messages if turn.role == "system"]


def _lines() -> Iterator[str]:
    """What is typed, line by line; Ctrl-C at the prompt empties the line, Ctrl-D ends."""
    prompt = PROMPT if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(prompt).strip()
        except KeyboardInterrupt:
            typer.echo("\nCtrl-D or /exit leaves.", err=True)
            continue
        except EOFError:
            typer.echo(err=True)
            return
        if line:
            yield line
