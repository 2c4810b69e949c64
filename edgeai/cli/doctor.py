"""`edgeai doctor`: what is here, what is missing, and what to do about it. Contacts nobody."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeai.cli import options
from edgeai.cli.exits import Exit
from edgeai.cli.findings import (
    Finding,
    State,
    gpu_findings,
    ladder_findings,
    machine_findings,
    provider_findings,
    trial_findings,
    variant_findings,
)
from edgeai.errors import ConfigError, LedgerError, ModelError

if TYPE_CHECKING:
    from edgeai.config import Settings

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def doctor(
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Look only: try no model.")] = False,
    report: Annotated[
        Path | None,
        typer.Option(help="Write a file for a bug report, without names, paths and addresses."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Check this machine and this installation. Exit code 1 if something must be done."""
    from edgeai.cli.output import write_json

    findings = list(_findings(quick=quick))
    if report is not None:
        _report(report, findings)
    if json:
        write_json(findings)
    else:
        _write(findings)
    if any(finding.state == "problem" for finding in findings):
        raise typer.Exit(Exit.PROBLEM)


def _write(findings: list[Finding]) -> None:
    marks = {"ok": "ok", "note": "--", "problem": "!!"}
    for finding in findings:
        typer.echo(f"{marks[finding.state]}  {finding.about:<10} {finding.found}")
        if finding.remedy:
            typer.echo(f"{'':<15}{finding.remedy}")


def _report(path: Path, findings: list[Finding]) -> None:
    from json import dumps

    from edgeai.cli.output import write_text
    from edgeai.cli.private import scrub
    from edgeai.devices.probe import engine_versions, probe

    facts = {
        "findings": [asdict(finding) for finding in findings],
        "machine": asdict(probe()),
        "engines": dict(engine_versions()),
    }
    write_text(path, dumps(scrub(facts), indent=2) + "\n")


def _findings(*, quick: bool) -> Iterator[Finding]:
    from edgeai.config import Settings
    from edgeai.paths import cache_dir, data_dir

    profile = "auto"
    with suppress(ConfigError):  # said where the settings are looked at
        profile = Settings.load().profile
    yield from _machine(profile)
    yield from _engines()
    if not quick:
        yield from provider_findings()
        yield from gpu_findings()
    yield _folder("models", cache_dir())
    yield _folder("data", data_dir())
    yield _ledger()
    yield from _contracts()
    try:
        settings = Settings.load()
    except ConfigError as error:
        yield Finding(
            about="settings", state="problem", found=f"{error.what}. {error.why}", remedy=error.remedy
        )
        settings = Settings()
    else:
        yield _settings_file()
    model = _model(settings.model)
    yield model
    if model.state == "ok" and not quick:
        yield from trial_findings(settings.model, settings.profile)
        yield from variant_findings(settings.model)
        yield from ladder_findings(settings)
    yield from _isolation(settings)
    yield _cloud(settings)


def _machine(profile: str) -> Iterator[Finding]:
    from importlib.metadata import version

    from edgeai.devices.probe import probe

    machine = probe()
    yield Finding(about="edgeai", state="ok", found=version("edgeai"))
    yield Finding(about="python", state="ok", found=machine.python)
    yield Finding(about="system", state="ok", found=machine.system)
    yield from machine_findings(machine, profile)


def _engines() -> Iterator[Finding]:
    from edgeai.devices.probe import engine_versions
    from edgeai.load import available_engines

    extras = {"llama-cpp-python": "llama", "onnxruntime": "onnx", "llguidance": "llama"}
    needed: State = "note" if available_engines() else "problem"
    for package, found in engine_versions().items():
        if found:
            yield Finding(about="engine", state="ok", found=f"{package} {found}")
        else:
            remedy = f'Install it: pip install "edgeai[{extras[package]}]"'
            yield Finding(about="engine", state=needed, found=f"{package} is not installed", remedy=remedy)


def _folder(about: str, folder: Path) -> Finding:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if existing.is_dir() and os.access(existing, os.W_OK):
        return Finding(about=about, state="ok", found=str(folder))
    remedy = "Give it write permission, or set EDGEAI_HOME to another folder"
    return Finding(about=about, state="problem", found=f"{folder} cannot be written to", remedy=remedy)


def _ledger() -> Finding:
    from edgeai.ledger import Ledger
    from edgeai.paths import data_dir

    path = data_dir() / "ledger.sqlite3"
    if not path.exists():
        return Finding(about="ledger", state="ok", found="empty")
    try:
        with Ledger.open(path) as record:
            return Finding(about="ledger", state="ok", found=f"{record.totals().queries} queries")
    except LedgerError as error:
        return Finding(
            about="ledger", state="problem", found=f"{error.what}: {error.why}", remedy=error.remedy
        )


def _contracts() -> Iterator[Finding]:
    """What audits have shown of the contracts that the ledger knows."""
    from edgeai.ledger import Ledger
    from edgeai.paths import data_dir

    path = data_dir() / "ledger.sqlite3"
    if not path.exists():
        return
    try:
        with Ledger.open(path) as record:
            used, drifts = record.history.used(), record.history.drifts()
    except LedgerError:  # said where the ledger is looked at
        return
    for contract in used:
        yield _contract(contract, drifts.get(contract))


def _contract(name: str, stored: str | None) -> Finding:
    from edgeai.standing import read_drift

    if stored is None:
        found = f"{name[:12]}… was used and never audited: its drift is not watched"
        return Finding(about="contract", state="note", found=found)
    drift = read_drift(stored)
    found = f"{name[:12]}…: {drift.in_words()}"
    if drift.alarmed:
        return Finding(about="contract", state="problem", found=found, remedy="Calibrate again")
    return Finding(about="contract", state="ok", found=found)


def _settings_file() -> Finding:
    from edgeai.config import config_file

    file = config_file()
    return Finding(about="settings", state="ok", found=str(file) if file.exists() else f"defaults, no {file}")


def _model(name: str) -> Finding:
    from edgeai.models import store

    try:
        store.find(name)
        model = store.verify(name) if not Path(name).is_file() else store.find(name)
    except ModelError as error:
        found = " ".join(part for part in (error.what, error.why) if part)
        return Finding(about="model", state="problem", found=found, remedy=error.remedy)
    return Finding(about="model", state="ok", found=f"{model.id}, its files have the right hashes")


def _isolation(settings: "Settings") -> Iterator[Finding]:
    """Where the engine of the settings' model would run."""
    from edgeai.isolated import needs_process
    from edgeai.models import store

    try:
        isolated = needs_process(
            store.find(settings.model),
            settings.isolation,
            settings.isolation_memory_bytes,
            settings.isolation_limit_s,
        )
    except ModelError:  # said where the model is looked at
        return
    except ConfigError as error:
        yield Finding(about="isolation", state="problem", found=error.what, remedy=error.remedy)
        return
    where = "the engine runs in a process of its own" if isolated else "the engine runs in the app's process"
    yield Finding(about="isolation", state="ok", found=f"{settings.isolation}: {where}")


def _cloud(settings: "Settings") -> Finding:
    if settings.cloud is None:
        return Finding(about="cloud", state="ok", found="none configured; nothing can leave this device")
    found = f"{settings.cloud} (not contacted)"
    if settings.privacy == "local":
        remedy = 'Set privacy = "redact" (with secrets replaced) or "allow" to let hard questions go there'
        return Finding(about="cloud", state="note", found=f"{found}, but privacy is local", remedy=remedy)
    from edgeai.cloud.providers import PROVIDERS

    for spec in settings.cloud.replace(",", " ").split():
        provider = PROVIDERS.get(spec.partition(":")[0])
        if provider is None:
            remedy = f"Known are: {', '.join(PROVIDERS)}"
            return Finding(about="cloud", state="problem", found=f"{spec} names no cloud", remedy=remedy)
        usual = None if provider.own or settings.cloud_base_url else provider.key_variable
        variable = settings.cloud_key_variable or usual
        if variable and "@http" not in spec and not _has_key(provider.format, variable):
            found = f"{spec} has no key"
            return Finding(about="cloud", state="problem", found=found, remedy=f"Set {variable}")
    return Finding(about="cloud", state="ok", found=found)


def _has_key(format: str, variable: str) -> bool:
    from edgeai.cloud.keys import from_keyring

    signs = format == "converse" and (os.environ.get("AWS_ACCESS_KEY_ID") or os.environ.get("AWS_PROFILE"))
    return bool(os.environ.get(variable) or signs or from_keyring(variable))
