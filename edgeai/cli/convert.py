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
    from edgeai.converters.formats import Form
    from edgeai.converters.gates import Gates
    from edgeai.converters.proof import Proof, Trial
    from edgeai.converters.search import Found
    from edgeai.converters.toolchain import Stage, Tell

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
        str | None, typer.Option(help="A number format such as q4_k_m or int8; auto: search for the best.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="How large a mixed package may be, such as 110MB: --quant mixed.")
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

    Ctrl-C and SIGTERM leave nothing behind; a search goes on where it stopped.
    """
    gates = _gates(target, max_kl, min_agreement, max_size, max_memory, min_speed)
    test = _test(tokens, text, task)
    form = _form(to, quant)
    _check_plot(plot, searching=form is None)
    with stopping(), _telling() as tell:
        if form is None and npu in ("a16w8", "a8w8"):
            raise ConfigError("A search makes no graphs for NPUs", remedy="Give --to onnx and a --quant")
        if form is None:
            if npu == "auto" and _npu(npu, target, "onnx") is not None:
                typer.echo("A search makes no graph for the NPU: --to onnx with a --quant does.", err=True)
            pace = _pace(target)
            _search(
                source, out, to, gates, test, tell, goal, name, plot, pace, allow_large=allow_large, json=json
            )
            return
        from edgeai.converters.toolchain import convert as run

        try:
            proof = run(
                source, out, to=form, quant=quant, size=None if size is None else read_size(size), name=name,
                gates=gates, test=test, npu=_npu(npu, target, form), allow_large=allow_large, tell=tell,
            ).proof  # fmt: skip
        except GateFailed as error:
            _show([error.proof], json=json)
            raise
    _show([proof], json=json)
    _made(out)


def _form(to: Literal["auto", "gguf", "onnx", "hf"], quant: str | None) -> "Form | None":
    """The one form that is meant; None: search."""
    from edgeai.converters.formats import FORMATS

    wanted = (quant or "auto").lower()
    if wanted == "auto" and (to == "auto" or quant is not None):
        return None
    if to != "auto":
        return to
    known = [form.form for form in FORMATS if form.quant == wanted]
    if not known:
        names = ", ".join(dict.fromkeys(form.quant for form in FORMATS))
        raise ConfigError(f"quant={quant!r} is unknown", remedy=f"Give one of {names}, or auto")
    return known[0]


def _npu(
    wish: Literal["auto", "a16w8", "a8w8", "none"], target: str, form: "Form"
) -> Literal["a16w8", "a8w8"] | None:
    """What is wished; with auto what the profile that ``--for`` names has a use for."""
    from edgeai.devices.probe import probe
    from edgeai.devices.profiles import choose
    from edgeai.devices.providers import PROVIDERS

    if wish != "auto":
        return None if wish == "none" else wish
    if target == "this" or form != "onnx":
        return None
    named = {
        name
        for works in choose(target, probe()).providers.values()
        for rows in works.values()
        for name in rows
    }
    return "a16w8" if any(PROVIDERS[n].kind == "npu" for n in named if n in PROVIDERS) else None


def _search(
    source: str, out: Path, to: Literal["auto", "gguf", "onnx", "hf"], gates: "Gates", test: "Trial",
    tell: "Tell", goal: Literal["quality", "speed"], name: str | None, plot: Path | None,
    pace: float | None, *, allow_large: bool, json: bool,
) -> None:  # fmt: skip
    from edgeai.converters.search import frontier, reaches, search

    if to == "hf":
        raise ConfigError(
            "A Hugging Face folder has no best number format", remedy="Give --quant f32, f16 or bf16"
        )
    try:
        found = search(
            source,
            out,
            to=to,
            goal=goal,
            pace=pace,
            name=name,
            gates=gates,
            test=test,
            allow_large=allow_large,
            tell=tell,
        )
    except GateFailed as error:
        _show(error.proof if isinstance(error.proof, tuple) else (), json=json)
        raise
    _show([row.proof for row in found.rows], best=[row.proof for row in frontier(found.rows)], json=json)
    for left in found.skipped:
        typer.echo(f"not made: {left.form.form} {left.form.quant}: {left.why}", err=True)
    if any(row.proof.speed is not None and row.proof.speed.disturbed for row in found.rows):
        again = "; for --goal speed, search again when it is quiet" if goal == "speed" else ""
        typer.echo(f"* Other programs used the processor meanwhile: speeds say little{again}.", err=True)
    if pace is not None and not any(reaches(row, pace) for row in found.rows):
        typer.echo(f"No format decodes {pace:.0f} tokens a second, which the profile wants.", err=True)
    _draw(found, plot)
    kept = pace is not None and any(reaches(row, pace) for row in found.rows)
    among = f", of those that decode about {pace:.0f} tokens a second, as the profile wants" if kept else ""
    typer.echo(f"The best for {goal}{among}: {found.chosen.package}", err=True)
    _made(out)


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


def _gates(
    target: str, max_kl: float | None, min_agreement: float | None, max_size: str | None,
    max_memory: str | None, min_speed: float | None,
) -> "Gates":  # fmt: skip
    from edgeai.converters.gates import Gates

    return Gates(
        max_kl=max_kl,
        min_agreement=min_agreement,
        max_size=None if max_size is None else read_size(max_size),
        max_memory=_memory(target) if max_memory is None else read_size(max_memory),
        min_speed=min_speed,
    )


def _memory(target: str) -> int | None:
    """What a model may take of the device's memory, in bytes; None, and told, if that is not known."""
    from edgeai.devices.probe import probe
    from edgeai.devices.profiles import choose

    machine = probe()
    profile = choose("auto" if target == "this" else target, machine)
    least = [rules.memory_gb[0] * 1e9 for rules in profile.match if rules.memory_gb is not None]
    least = least if profile.memory.total_mb is None else [profile.memory.total_mb.value * 1e6]
    if target != "this" and not least:
        words = "does not say how much memory there is, so none is checked; --max-memory would be"
        typer.echo(f"The profile {target} {words}", err=True)
        return None
    total = machine.memory_bytes if target == "this" else min(least)
    return int(total * profile.memory.model_share.value)


def _pace(target: str) -> float | None:
    """Tokens a second that this machine's profile wants; other devices' speeds cannot be measured here."""
    from edgeai.devices.probe import probe
    from edgeai.devices.profiles import choose

    wanted = choose("auto", probe()).targets.tpot_ms if target == "this" else None
    return None if wanted is None else 1e3 / wanted.value


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
    from edgeai.converters.proof import Trial
    from edgeai.converters.task import read_task

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
    from edgeai.converters.proof import Proof

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
    from edgeai.converters.timing import Speed

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
