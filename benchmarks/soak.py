"""The tests that run for a long time, with what they measured."""

import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.table import Row, plain


def measure() -> list[Row]:
    """Run them; SystemExit when one failed, so that no table hides it."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "soak.xml"
        options = ["-m", "soak", "--timeout", "0", f"--junitxml={report}", "-o", "junit_family=xunit1"]
        command = [sys.executable, "-m", "pytest", *options]
        if code := subprocess.run(command, check=False).returncode:
            raise SystemExit(code)
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    return [row for case in cases for row in rows(case)]


def rows(case: ElementTree.Element) -> list[Row]:
    """One test: how long it took, or why it was left out, and the figures that it noted."""
    what = f"`{case.get('name')}`"
    skipped = case.find("skipped")
    if skipped is not None:
        return [Row(what=what, figure=f"skipped: {skipped.get('message')}")]
    noted = [(item.get("name"), item.get("value")) for item in case.iter("property")]
    return [
        plain(f"{what}, passed", float(case.get("time", "0")), "s"),
        *(Row(what=f"{what}, {name}", figure=str(value)) for name, value in noted),
    ]
