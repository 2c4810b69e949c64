"""`edgeai doctor`: what is here, what is missing, and what to do about it. Contacts nobody."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from edgeai.cli import options
from edgeai.cli.exits import Exit
from edgeai.errors import ConfigError, LedgerError, ModelError

if TYPE_CHECKING:
    from edgeai.config import Settings

app = typer.Typer(add_completion=False, rich_markup_mode=None)

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at; ``remedy`` says what to do where the state is not ok."""

    about: str
    state: State
    found: str
    remedy: str | None = None


@app.command()
def doctor(*, json: options.Json = False) -> None:
    """Check this installation. Exit code 1 if something must be done."""
    from edgeai.cli.output import write_json

    findings = list(_findings())
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


def _findings() -> Iterator[Finding]:
    from edgeai.config import Settings
    from edgeai.paths import cache_dir, data_dir

    yield from _machine()
    yield from _engines()
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
    yield _model(settings.model)
    yield _cloud(settings)


def _machine() -> Iterator[Finding]:
    from importlib.metadata import version

    from edgeai.cli.output import size
    from edgeai.devices.probe import probe

    machine = probe()
    memory = f"{size(machine.memory_available_bytes)} of {size(machine.memory_bytes)} memory free"
    yield Finding(about="edgeai", state="ok", found=version("edgeai"))
    yield Finding(about="python", state="ok", found=machine.python)
    yield Finding(about="system", state="ok", found=machine.system)
    yield Finding(
        about="processor",
        state="ok",
        found=f"{machine.cpu}, {machine.usable_cores} of {machine.cores} cores usable, {memory}",
    )


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
