import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).parent.parent
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text("utf-8"))


def test_the_list_of_packages_equals_the_tree() -> None:
    """A package that is not listed in pyproject.toml would be missing from the wheel."""
    found = {
        ".".join(Path(top).relative_to(REPO).parts)
        for top, _, files in os.walk(REPO / "edgeai", followlinks=True)
        if "__init__.py" in files
    }
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the files in a wheel that is built from the source distribution."""
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(REPO)]
    built = subprocess.run(build, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return set(zipfile.ZipFile(next(out.glob("*.whl"))).namelist())


@pytest.mark.parametrize(
    "name",
    [
        "edgeai/py.typed",
        "edgeai/models/catalog.toml",
        "edgeai/converters/__init__.py",
        "edgeai/device_profiles/__init__.py",
    ],
)
def test_the_wheel_has_what_is_not_plain_python(wheel: set[str], name: str) -> None:
    """Types, the catalog and the two mapped folders are in the wheel."""
    assert name in wheel


def test_the_wheel_has_every_module_and_nothing_else(wheel: set[str]) -> None:
    """All of the package and none of tests, samples and benchmarks; the licence goes along."""
    modules = {
        Path(top, file).relative_to(REPO).as_posix()
        for top, _, files in os.walk(REPO / "edgeai", followlinks=True)
        for file in files
        if file.endswith(".py")
    }
    assert {name for name in wheel if name.endswith(".py")} == modules
    assert {name.split("/")[0] for name in wheel} == {
        "edgeai",
        f"edgeai-{PROJECT['project']['version']}.dist-info",
    }
    assert any(name.endswith("LICENSE") for name in wheel)


def test_converters_have_one_name() -> None:
    """The folder is not importable as `converters`, so that no class exists twice."""
    code = f"import sys; sys.path.insert(0, {str(REPO)!r}); import converters"
    tried = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "import this package as `edgeai.converters`" in tried.stderr
