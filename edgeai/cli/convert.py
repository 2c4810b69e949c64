"""`edgeai convert`: from a model and a device to a package that is proved, or to a reason why not."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edgeai.cli import options
from edgeai.cli.stopping import stopping
from edgeai.errors import ConfigError, GateFailed

if TYPE_CHECKING:
    from edgeai.converters import Found, Proof, Stage, Trial
    from edgeai.converters.stages import Tell

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}
_STEPS = {
    "hash": "reading",
    "convert": "converting to",
    "reference": "preparing the proof of",
    "prove": "proving",
    "measure": "measuring",
}


@app.command()
def convert(
    source: Annotated[
        str,
        typer.Argument(help="A .gguf file, a Hugging Face folder, an installed model, a hub id: org/name."),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to make.")],
    to: Annotated[
        Literal["auto", "gguf", "onnx", "hf"],
        typer.Option(help="What to make; hf: a Hugging Face folder. auto: what is best."),
    ] = "auto",
    quant: Annotated[
        str | None,
        typer.Option(
            help="A number format such as q4_k_m or int8; auto: search for the best. Else as usual for --to."
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help="With --quant mixed: how large the package may be, such as 110MB."),
    ] = None,
    target: Annotated[
        str, typer.Option("--for", help="The device: this one, or a profile's name; its memory counts.")
    ] = "this",
    npu: Annotated[
        Literal["auto", "a16w8", "a8w8", "none"],
        typer.Option(
            help="A graph for NPUs in the ONNX package; auto: a16w8 if --for names a device with one."
        ),
    ] = "auto",
    goal: Annotated[
        Literal["quality", "speed"], typer.Option(help="What a search looks for, among what keeps the gates.")
    ] = "quality",
    name: Annotated[str | None, typer.Option(help="The package's name.")] = None,
    max_kl: Annotated[float | None, typer.Option("--max-kl", help="Nats a token, from the source.")] = None,
    min_agreement: Annotated[
        float | None, typer.Option("--min-agreement", help="Share of tokens with the source's favourite.")
    ] = None,
    max_size: Annotated[str | None, typer.Option("--max-size", help="Of all files, such as 120MB.")] = None,
    max_memory: Annotated[
        str | None, typer.Option("--max-memory", help="While it runs, such as 500MB; else the device's.")
    ] = None,
    min_speed: Annotated[
        float | None,
        typer.Option("--min-speed", help="Decoded tokens a second; of an encoder tokens read a second."),
    ] = None,
    tokens: Annotated[int, typer.Option(min=64, help="Tokens of text that the proof compares.")] = 4096,
    text: Annotated[
        Path | None, typer.Option(help="Prove on this text; no quantizer may have seen it.", dir_okay=False)
    ] = None,
    task: Annotated[
        Path | None,
        typer.Option(help="JSONL of prompt, choices, reference: answered before and after.", dir_okay=False),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw what a search found: .svg or .png.")] = None,
    allow_large: Annotated[
        bool, typer.Option("--allow-large", help="Take more than 3 billion parameters.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Convert a model, and prove that it is still the same model; what misses a gate is not made.

    Ctrl-C and SIGTERM leave no half package; what took long goes on where it stopped.
    """
    from edgeai import converters
    from edgeai.converters.formats import meant
    from edgeai.target import device_for

    device, test = device_for(target), _test(tokens, text, task)
    _check_plot(plot, searching=meant(to, quant) is None)
    gates = converters.Gates(
        max_kl=max_kl, min_agreement=min_agreement, max_size=_size(max_size), max_memory=_size(max_memory),
        min_speed=min_speed,
    )  # fmt: skip
    for unknown in device.unchecked(gates):
        typer.echo(unknown, err=True)
    with stopping(), _telling() as tell:
        try:
            made = converters.convert(
                source, out, device=device, to=to, quant=quant, size=_size(size), npu=npu, goal=goal,
                name=name, gates=gates, test=test, allow_large=allow_large, tell=tell,
            )  # fmt: skip
        except GateFailed as error:
            _show(error.proof if isinstance(error.proof, tuple) else (error.proof,), json=json)
            raise
    if made.found is None:
        _show([made.package.proof], json=json)
    else:
        _show_found(made.found, goal, json=json)
        _draw(made.found, plot)
    for told in made.told:
        typer.echo(told, err=True)
    if made.found is not None:
        kept = device.here and device.pace is not None and not device.too_slow([made.package.proof])
        among = f", of those that decode about {device.pace:.0f} tokens a second" if kept else ""
        typer.echo(f"The best for {goal}{among}: {made.package.proof.package}", err=True)
    _made(out)


def _size(text: str | None) -> int | None:
    return None if text is None else read_size(text)


def _show_found(found: "Found", goal: Literal["quality", "speed"], *, json: bool) -> None:
    """What a search compared, what it did not make, and whether its speeds mean anything."""
    from edgeai.converters import frontier

    _show([row.proof for row in found.rows], best=[row.proof for row in frontier(found.rows)], json=json)
    for left in found.skipped:
        typer.echo(f"not made: {left.form.form} {left.form.quant}: {left.why}", err=True)
    if any(row.proof.speed is not None and row.proof.speed.disturbed for row in found.rows):
        again = "; for --goal speed, search again when it is quiet" if goal == "speed" else ""
        typer.echo(f"* Other programs used the processor meanwhile: speeds say little{again}.", err=True)


def _check_plot(plot: Path | None, *, searching: bool) -> None:
    """What is drawn at the end of a long search must be possible, and there must be a search."""
    if plot is None:
        return
    if not searching:
        raise ConfigError("--plot draws what a search found", remedy="Leave --plot or --quant out")
    from edgeai.cli.frontier import check

    check(plot)


def _draw(found: "Found", plot: Path | None) -> None:
    if plot is not None:
        from edgeai.cli.frontier import draw

        draw(found.rows, found.chosen, plot)


def read_size(text: str) -> int:
    """Bytes in a text such as 120MB or 1.5GiB. Raises ConfigError."""
    upper = text.strip().upper().removesuffix("BYTES").strip()
    unit = next((unit for unit in ("KIB", "MIB", "GIB", "KB", "MB", "GB") if upper.endswith(unit)), "")
    try:
        n_bytes = float(upper.removesuffix(unit)) * _UNITS.get(unit, 1)
        if not 0 < n_bytes < 1e15:
            raise ValueError(text)
    except ValueError as error:
        raise ConfigError(f"{text!r} is not a size", remedy="Write 120MB or 1.5GB") from error
    return int(n_bytes)


def _test(tokens: int, text: Path | None, task: Path | None) -> "Trial":
    from edgeai.converters import Trial, read_task

    try:
        words = None if text is None else text.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{text} cannot be read", why=str(error)) from error
    return Trial(
        tokens=tokens, window=min(512, tokens), text=words, task=None if task is None else read_task(task)
    )


@contextmanager
def _telling() -> Iterator["Tell"]:
    """A bar with the time that is left on a terminal, a line for each step elsewhere; on stderr."""
    from edgeai.cli.progress import stepping

    with stepping() as show:
        yield lambda stage: show(_title(stage), stage.done, stage.total)


def _title(stage: "Stage") -> str:
    number, of = stage.part
    return f"{f'{number} of {of}: ' if of > 1 else ''}{_STEPS[stage.step]} {stage.what}"


def _show(proofs: Sequence[object], *, best: "Sequence[Proof]" = (), json: bool) -> None:
    """A line for each, marked where no other of a search beats it in size, KL and speed."""
    from dataclasses import asdict

    from edgeai.cli.output import write_json, write_table
    from edgeai.converters import Proof

    rows = [proof for proof in proofs if isinstance(proof, Proof)]
    if json:
        write_json([asdict(row) | {"passed": row.passed} for row in rows])
        return
    write_table(
        (
            *("PACKAGE", "SIZE", "KL", "KL P99", "SAME TOKEN", "PERPLEXITY", "TASK"),
            *("DECODE", "PREFILL", "LOAD", "MEMORY", "GATES"),
        ),
        [*map(_source_line, rows[:1]), *(_line(row, on_frontier=row in best) for row in rows)],
    )  # fmt: skip


def _source_line(row: "Proof") -> tuple[str, ...]:
    from edgeai.cli.output import size

    perplexity = "?" if row.divergence is None else f"{row.divergence.source_perplexity:.2f}"
    task = "" if row.task is None else f"{row.task[0]:.1%}"
    speeds = _speeds(row.source_speed)
    return ("the source", size(row.source_size), "0", "0", "100.0%", perplexity, task, *speeds, "")


def _line(row: "Proof", *, on_frontier: bool) -> tuple[str, ...]:
    from edgeai.cli.output import size

    d = row.divergence
    words = ("?",) * 3 if d is None else (f"{d.kl_mean:.4f}", f"{d.kl_p99:.4f}", f"{d.agreement:.1%}")
    perplexity = "?" if d is None else f"{d.perplexity:.2f}"
    task = "" if row.task is None else f"{row.task[1]:.1%}"
    gates = (
        _kept(row)
        if row.passed
        else "missed: " + ", ".join(gate.name for gate in row.gates if not gate.passed)
    )
    if on_frontier:
        gates += ", on the frontier"
    return (row.package, size(row.size), *words, perplexity, task, *_speeds(row.speed), gates)


def _kept(row: "Proof") -> str:
    """What was found where there is no column for it."""
    own = () if row.divergence else ("kl", "agreement")  # a classifier's are of labels, not of tokens
    found = [
        f"{gate.name} {gate.found:.4f}{f' ({gate.note})' if gate.note else ''}"
        for gate in row.gates
        if "cosine" in gate.name or gate.name in own
    ]
    return ", ".join(["kept", *found])


def _speeds(speed: object) -> tuple[str, str, str, str]:
    from edgeai.cli.output import size
    from edgeai.converters import Speed

    if not isinstance(speed, Speed):
        return "", "", "", ""
    mark = "*" if speed.disturbed else ""
    decode = "" if speed.decode_tps is None else f"{speed.decode_tps:.0f} tok/s{mark}"
    rates = decode, f"{speed.prefill_tps:.0f} tok/s{mark}"
    return *rates, f"{speed.load_s:.2f} s", size(speed.resident_bytes)


def _made(out: Path) -> None:
    from edgeai.converters.licence import licence_of
    from edgeai.models.package import MANIFEST, read_manifest

    licence = read_manifest(out).licence if (out / MANIFEST).is_file() else licence_of(out)
    typer.echo(
        f"made {out}; its licence: {licence or 'not named by the source: look there before use'}", err=True
    )
