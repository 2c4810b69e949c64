"""Run the benchmarks and write their tables into RESULTS.md: ``python -m benchmarks [NAME …]``."""

import importlib
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.table import Row, table
from edgeai.devices.probe import probe

NAMES = ("speed", "engines", "startup", "isolation")
BY_NAME_ONLY = (
    "conversion_speed",
    "drafting",
    "genai",
    "load",
    "load_onnx",
    "memory",
    "parallel",
    "redaction",
    "soak",
    "speculation",
    "warm",
)
RESULTS = Path(__file__).parent / "RESULTS.md"


def main(names: tuple[str, ...]) -> None:
    """Measure each, show its table, and put it in the place of its old one."""
    known = NAMES + BY_NAME_ONLY
    if unknown := set(names) - set(known):
        raise SystemExit(f"Unknown: {', '.join(sorted(unknown))}. Known: {', '.join(known)}")
    for name in names or NAMES:
        module = importlib.import_module(f"benchmarks.{name}")
        rows: list[Row] = module.measure()
        section = f"## {name}\n\n{module.__doc__}\n{where()}\n\n{table(rows)}\n"
        print(section)
        store(name, section)


def where() -> str:
    """When, from which commit and on what machine this was measured."""
    machine = probe()
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, commit {commit or 'unknown'}; {machine.cpu}, "
        f"{machine.cores} cores, {machine.system}, Python {machine.python}."
    )


def store(name: str, section: str) -> None:
    """Put the section ``## name`` in the place of its old one."""
    text = RESULTS.read_text("utf-8") if RESULTS.exists() else "# Results\n"
    old = re.compile(rf"^## {name}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    text = old.sub(lambda _: section, text) if old.search(text) else f"{text.rstrip()}\n\n{section}"
    RESULTS.write_text(text, "utf-8")


if __name__ == "__main__":
    main(tuple(sys.argv[1:]))
