"""`edgeai warm …`: the heads of prompts that are kept on this disk; see which, and delete them."""

from datetime import UTC, datetime

import typer

from edgeai.cli import options

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, no_args_is_help=True, help="Prompts kept for warm starts."
)


@app.command("list")
def list_(*, json: options.Json = False) -> None:
    """Show what is kept, the latest used first: for which model, how long and how large; not the text."""
    from edgeai.cli.output import write_json, write_table
    from edgeai.models import prefixes

    kept = sorted(prefixes.kept(), key=lambda one: one.used_s, reverse=True)
    if json:
        write_json([{"model": one.model, "tokens": one.n_tokens, "bytes": one.n_bytes} for one in kept])
        return
    if not kept:
        typer.echo("Nothing is kept.")
        return
    rows = [
        (
            one.model,
            f"{one.n_tokens:,}",
            f"{one.n_bytes / 1e6:,.1f}",
            f"{datetime.fromtimestamp(one.used_s, UTC):%Y-%m-%d %H:%M}",
        )
        for one in kept
    ]
    write_table(("MODEL", "TOKENS", "MB", "USED (UTC)"), rows)


@app.command()
def clear(*, json: options.Json = False) -> None:
    """Delete all of it; running programs compute what they need again."""
    from edgeai.cli.output import write_json_line
    from edgeai.models import prefixes

    n_deleted = prefixes.clear()
    if json:
        write_json_line({"deleted": n_deleted})
    else:
        typer.echo(f"deleted {n_deleted}")
