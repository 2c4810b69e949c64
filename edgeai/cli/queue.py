"""`edgeai queue`: the questions that wait for the network."""

from typing import Annotated, Any

import typer

from edgeai.cli import options

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)

HELP = "The questions that wait for the network (a policy with when_offline=queue puts them there)."


@app.callback(help=HELP)
def queue() -> None:
    """Without it a single verb would take the place of the group."""


@app.command("list")
def list_(
    *, show: Annotated[bool, typer.Option(help="Show the texts, too.")] = False, json: options.Json = False
) -> None:
    """What waits, and what came of the rest; the texts only with --show."""
    from edgeai.cli.output import write_json, write_table
    from edgeai.outbox import Outbox

    with Outbox() as outbox:
        rows = [_row(item, show=show) for item in outbox.all()]
    if json:
        write_json({"questions": rows})
        return
    if not rows:
        typer.echo("Nothing waits.")
        return
    names = ["id", "state", "asked", *(["question", "answer"] if show else []), "note"]
    write_table([name.upper() for name in names], [[str(row[name] or "") for name in names] for row in rows])


@app.command()
def send(
    *,
    cloud: options.Cloud = None,
    cloud_base_url: options.CloudBaseUrl = None,
    cloud_key_variable: options.CloudKeyVariable = None,
    privacy: options.Privacy = None,
    json: options.Json = False,
) -> None:
    """Send what waits now, oldest first; answers stay in the queue, see list --show."""
    from edgeai.cli.opening import open_cloud_of
    from edgeai.cli.output import write_json
    from edgeai.errors import ConfigError
    from edgeai.ledger import Ledger
    from edgeai.outbox import Outbox
    from edgeai.policy import Policy
    from edgeai.resend import send as send_all

    settings = options.read_settings(
        {
            "cloud": cloud,
            "cloud_base_url": cloud_base_url,
            "cloud_key_variable": cloud_key_variable,
            "privacy": privacy,
        }
    )
    target = open_cloud_of(settings)
    if target is None:
        raise ConfigError("No cloud is configured", remedy="Give --cloud provider:model")
    with Outbox() as outbox, Ledger.open() as ledger:
        answered = send_all(outbox, target, Policy(privacy=settings.privacy), ledger, None)
        counts = outbox.counts()
    if json:
        write_json({"answered": answered, "states": counts})
        return
    typer.echo(f"{answered} answered, {counts['waiting']} still waiting.")


@app.command()
def retry(
    question: Annotated[int, typer.Argument(help="Its number in the list.")],
) -> None:
    """Send a question again that was refused, or whose fate is unknown."""
    from edgeai.outbox import Outbox

    with Outbox() as outbox:
        outbox.retry(question)
    typer.echo(f"{question} waits again.")


@app.command()
def clear() -> None:
    """Forget all questions and answers."""
    from edgeai.outbox import Outbox

    with Outbox() as outbox:
        typer.echo(f"{outbox.clear()} forgotten.")


@app.command()
def key() -> None:
    """Make a key that encrypts the queue: put it into EDGEAI_QUEUE_KEY, or give it as queue_key=…."""
    from edgeai.outbox import new_key

    typer.echo(new_key())


def _row(item: Any, *, show: bool) -> dict[str, Any]:  # noqa: ANN401  # Queued loads SQLite
    row = {"id": item.id, "state": item.state, "asked": item.asked, "note": item.note}
    if show:
        request = item.request
        row["question"] = None if request is None else request.messages[-1].text
        row["answer"] = item.answer
    return row
