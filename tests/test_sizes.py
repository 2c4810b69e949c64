import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "edgeai"
MODULES = sorted(
    Path(top, file)
    for top, _, files in os.walk(PACKAGE, followlinks=True)  # converters and device_profiles are links
    for file in files
    if file.endswith(".py")
)
MAX_LINES = 400


def module_id(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_a_module_has_one_job(path: Path) -> None:
    """No module is longer than can be read in one sitting."""
    assert len(path.read_text("utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_public_names_are_documented(path: Path) -> None:
    """Every module, public class, function and method has a docstring."""
    tree = ast.parse(path.read_text("utf-8"))
    if not tree.body:
        return
    assert ast.get_docstring(tree), "the module"
    assert [name for name, node in public(tree) if not ast.get_docstring(node)] == []


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public(tree: ast.Module | ast.ClassDef) -> Iterator[tuple[str, Definition]]:
    for node in tree.body:
        if not isinstance(node, Definition) or node.name.startswith("_") or is_overload(node):
            continue
        yield node.name, node
        if isinstance(node, ast.ClassDef):
            yield from public(node)


def is_overload(node: Definition) -> bool:
    return any(
        isinstance(decorator, ast.Name) and decorator.id == "overload" for decorator in node.decorator_list
    )
