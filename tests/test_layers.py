import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgeai

PACKAGE = Path(__file__).parent.parent / "edgeai"
# Each room may import from the lines above its own, and nothing from its own line.
LAYERS = [
    {"types", "errors", "paths"},
    {"config", "database", "economics", "net"},
    {"disclosures", "history", "models", "prices"},
    {"migrations"},
    {"engines", "cloud", "monitor", "egress", "ledger", "outbox"},
    {"devices", "policy", "converters", "device_profiles"},
    {
        "arriving",
        "choose",
        "gate",
        "hedge",
        "measure",
        "ner",
        "options",
        "outcome",
        "scorers",
        "shift",
        "shown",
        "steps",
        "target",
    },
    {"binding", "isolated", "sensors"},
    {"load"},
    {"prepare", "standing"},
    {"run"},
    {"call", "record"},
    {"audit", "drive", "resend"},
    {"waiting"},
    {"kept", "session"},
    {"edge"},
    {"async_edge", "observe"},
    {"calibrate"},
    {"testing", "cli"},
    {"__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
# A library, and the only place that imports it.
ALONE: dict[str, str | tuple[str, ...]] = {
    "httpx": "net",
    "llama_cpp": "engines/llamacpp/binding.py",
    "onnxruntime": ("engines/onnx/session.py", "devices/provider_child.py", "converters/npu.py"),
    "phonenumbers": "egress/phones.py",
    "pynvml": "devices/energy.py",
    "sqlite3": "database.py",
    "gguf": "converters/gguf_writer.py",
    "torch": "converters/optimum_export.py",
    "transformers": "converters/optimum_export.py",
    "huggingface_hub": "models/hub.py",
    "botocore": "cloud/aws.py",
    "matplotlib": ("calibrate/plots.py", "cli/frontier.py"),
    "stdnum": "egress/numbers.py",
}
LAZY = [
    "numpy",
    "httpx",
    "llama_cpp",
    "onnxruntime",
    "tokenizers",
    "onnx",
    "jinja2",
    "rich",
    "typer",
    "platformdirs",
    "sqlite3",
    "phonenumbers",
    "stdnum",
    "botocore",
]

MODULES = sorted(
    Path(top, file)
    for top, _, files in os.walk(PACKAGE, followlinks=True)  # converters and device_profiles are links
    for file in files
    if file.endswith(".py")
)


def imports(path: Path) -> Iterator[str]:
    """The absolute names that a module imports, also inside functions; ``from x import y`` gives x.y."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_id(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_imports_point_one_way(path: Path) -> None:
    """A room imports only from rooms to its left; siblings do not know one another."""
    own = room(path)
    if own == "__init__":
        return
    assert own in LEVEL, f"{own} is new: give it a place in LAYERS"
    used = {name.split(".")[1] for name in imports(path) if name.startswith("edgeai.")} - {own}
    assert {name for name in used if LEVEL.get(name, 0) >= LEVEL[own]} == set()


@pytest.mark.parametrize("library", ALONE)
def test_a_heavy_library_has_one_door(library: str) -> None:
    """One place imports it, so its errors are mapped in one place."""
    found = {
        module_id(path) for path in MODULES if any(name.split(".")[0] == library for name in imports(path))
    }
    assert {name for name in found if not name.startswith(ALONE[library])} == set()


@pytest.mark.parametrize(
    "package", ["calibrate", "converters", "egress", "devices", "engines", "models", "cli", "net", "cloud"]
)
def test_no_cycles_inside_a_room(package: str) -> None:
    """The modules of a room can be put in an order in which each imports only earlier ones."""
    waiting = {}
    for path in (PACKAGE / package).rglob("*.py"):
        name = "edgeai." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        waiting[name] = path
    needs = {
        name: {used for used in _modules(path, waiting) if used != name} for name, path in waiting.items()
    }
    while needs:
        free = {name for name, needed in needs.items() if not needed & needs.keys()}
        assert free, f"a cycle among {sorted(needs)}"
        needs = {name: needed for name, needed in needs.items() if name not in free}


def _modules(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of ``known`` that are imported when ``path`` is (imports inside functions come later)."""
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in known else str(node.module) for name in names)


def test_importing_edgeai_loads_nothing_heavy() -> None:
    """`import edgeai` is cheap, names included: no library beyond the standard one, and no database."""
    loads = f"print([name for name in {LAZY} if name in sys.modules])"
    code = f"import sys; from edgeai import Edge, Policy; {loads}"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_every_public_name_has_its_place() -> None:
    """What is loaded on first use is all that is promised; any other name is an AttributeError."""
    assert sorted(edgeai._LAZY) == sorted(edgeai.__all__)
    for name in edgeai.__all__:
        assert getattr(edgeai, name) is not None
        assert name in dir(edgeai)
    with pytest.raises(AttributeError, match="nosuch"):
        _ = edgeai.nosuch
