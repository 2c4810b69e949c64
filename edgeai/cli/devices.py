"""`edgeai devices`: what this machine is, which profile was chosen and why, and what a model would take."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from edgeai.cli import options

if TYPE_CHECKING:
    from edgeai.devices.fitting import MemoryPlan
    from edgeai.devices.probe import Machine
    from edgeai.devices.profiles import Candidate, Goal, ModelChoice, Profile, Targets
    from edgeai.engines import DevicePlan

app = typer.Typer(add_completion=False, rich_markup_mode=None)
LISTED = 4


@app.command()
def devices(
    model: Annotated[
        str | None,
        typer.Argument(help="Show what this model would take.", autocompletion=options.complete_model),
    ] = None,
    *,
    n_ctx: options.Context = None,
    profile: Annotated[str | None, typer.Option(help="Plan with this profile, not the machine's.")] = None,
    goal: Annotated[str | None, typer.Option(help="speed or battery.")] = None,
    json: options.Json = False,
) -> None:
    """Show what this machine is, the profile that was chosen for it and why; loads nothing.

    With a model: the memory it would take, term by term, against what may be used now.
    """
    from edgeai.cli.output import write_json
    from edgeai.devices.probe import probe
    from edgeai.devices.profiles import choose, ranked

    settings = options.read_settings({"profile": profile, "goal": goal, "n_ctx": n_ctx})
    machine = probe()
    chosen, candidates = choose(settings.profile, machine), ranked(machine)
    made = None if model is None else _plan(model, machine, chosen, settings.n_ctx, settings.goal)
    if json:
        write_json(_facts(machine, chosen, candidates, made))
        return
    _write_machine(machine)
    _write_profile(chosen, candidates)
    if made is not None:
        _write_plan(*made)


def _plan(
    name: str, machine: "Machine", profile: "Profile", n_ctx: int | None, goal: str
) -> "tuple[MemoryPlan, DevicePlan]":
    from edgeai.devices.fitting import memory_plan
    from edgeai.devices.placing import place
    from edgeai.devices.plan import plan
    from edgeai.devices.tuning import recall
    from edgeai.devices.wish import Wish
    from edgeai.load import choose_package, relatives

    model = choose_package(name, "auto", allow_large=True)
    device = plan(n_ctx, model.manifest.context, profile=profile, machine=machine, goal=cast("Goal", goal))
    tuned = recall(model)
    wish = Wish(tuned=None if tuned is None else tuned.provider)
    device = place(model, device, wish, profile, cast("Goal", goal), machine)
    return memory_plan(model, device, machine.memory, profile.memory, relatives(model)), device


def _facts(
    machine: "Machine",
    chosen: "Profile",
    candidates: "tuple[Candidate, ...]",
    made: "tuple[MemoryPlan, DevicePlan] | None",
) -> dict[str, Any]:
    facts = {
        "machine": asdict(machine),
        "profile": asdict(chosen),
        "candidates": [
            {
                "profile": candidate.profile.name,
                "matches": candidate.matches,
                "rules": [asdict(verdict) for verdict in candidate.verdicts],
            }
            for candidate in candidates
        ],
    }
    if made is not None:
        needed, device = made
        total: dict[str, Any] = {
            "total": needed.footprint.total,
            "fits": needed.fits,
            "n_threads": device.n_threads,
        }
        facts["plan"] = asdict(needed) | total | {"steps": [asdict(step) for step in device.steps]}
    return facts


def _write_machine(machine: "Machine") -> None:
    from edgeai.devices.describe import lines

    for name, text in lines(machine):
        typer.echo(f"{name:<13}{text}")


def _write_profile(chosen: "Profile", candidates: "tuple[Candidate, ...]") -> None:
    taken = next(candidate for candidate in candidates if candidate.profile.name == chosen.name)
    why = "; ".join(f"{v.rule} is {v.found}" for v in taken.verdicts if v.passed) or "nothing else matches"
    typer.echo(
        f"{'profile':<13}{chosen.name}: {chosen.title}" + (f" ({why})" if taken.matches else " (asked for)")
    )
    for role, choice in chosen.models.items():
        how = "edgeai convert" if "/" in choice.model else "edgeai models pull"
        here = "" if _is_installed(choice) else f", not installed: {how} {choice.model}"
        typer.echo(f"{'suits it':<13}{role}: {choice.model}, {choice.quantization}{here}")
    if wanted := _targets(chosen.targets):
        typer.echo(f"{'targets':<13}{wanted}")
    passed_over = [c for c in candidates if c.verdicts and c is not taken]
    nearest = sorted(passed_over, key=lambda c: sum(not v.passed for v in c.verdicts))
    for candidate in nearest[:LISTED]:
        missed = "; ".join(
            f"{v.rule} should be {v.wanted}, is {v.found}" for v in candidate.verdicts if not v.passed
        )
        typer.echo(f"{'':<13}not {candidate.profile.name}: {missed or 'another is more specific'}")
    if left := len(nearest[LISTED:]):
        typer.echo(f"{'':<13}nor {left} others: --json tells why")


def _is_installed(choice: "ModelChoice") -> bool:
    """Whether a package of the model in this number format is here, for whichever engine."""
    from edgeai.models import store

    known = ((found.manifest.name, found.manifest.quantization) for found in store.installed())
    return (choice.model.rpartition("/")[2].lower(), choice.quantization) in known


def _targets(targets: "Targets") -> str:
    named = {
        "first token after": targets.ttft_ms,
        "each further one": targets.tpot_ms,
        "an embedding": targets.embed_ms,
    }
    return ", ".join(f"{name} {figure.value:g} ms" for name, figure in named.items() if figure is not None)


def _write_plan(needed: "MemoryPlan", device: "DevicePlan") -> None:
    from edgeai.devices.describe import step_in_words
    from edgeai.devices.fitting import in_words

    stored = f"KV values as {needed.kv_type}"
    typer.echo(f"{'model':<13}{needed.model}, n_ctx={needed.n_ctx}, {device.n_threads} threads, {stored}")
    typer.echo(f"{'memory':<13}{'fits. ' if needed.fits else 'DOES NOT FIT. '}{in_words(needed)}")
    for step in device.steps:
        typer.echo(f"{'runs on':<13}{step_in_words(step)}")
    if not device.steps:
        typer.echo(f"{'runs on':<13}the processor")
    for settings in needed.nearest:
        typer.echo(f"{'':<13}would fit: {settings}")
