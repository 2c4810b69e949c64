"""What README and docs say is true: snippets run, commands exist, tables agree with the code.

``python -m tests.test_docs`` writes the generated parts anew: docs/cli.md, and the tree in README.md.
"""

import ast
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import typer.main

import edgeai
from edgeai import cli, errors
from edgeai.cli.exits import MEANINGS
from edgeai.config import PREFIX, Settings
from edgeai.errors import EdgeError
from edgeai.monitor import monitor
from edgeai.policy import _EXPLAIN_STAY
from edgeai.types import Reason
from tests.servers import Child, katan

ROOT = Path(__file__).parent.parent
README, CLI_PAGE = ROOT / "README.md", ROOT / "docs" / "cli.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
OWN_SERVER = "http://localhost:8000/v1"  # in the text: the reader's own; here: llm-katan
WIDTH = 80
WRITE = "python -m tests.test_docs"
Verb = typer.core.TyperCommand | typer.core.TyperGroup

page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)


def blocks(path: Path, language: str) -> Iterator[tuple[int, str]]:
    """The fenced blocks in a language, each with the number of its first line."""
    text = path.read_text("utf-8")
    for found in re.finditer(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        yield text[: found.start(1)].count("\n") + 1, found[1]


def commands(path: Path, program: str) -> list[str]:
    """The lines of shell blocks that call a program, without comments."""
    lines = [
        line.partition("  #")[0].strip() for _, block in blocks(path, "sh") for line in block.splitlines()
    ]
    return [line for line in lines if line.startswith(f"{program} ")]


# snippets


@pytest.fixture(scope="module")
def server() -> Iterator[Child]:
    """The server that snippets call their own."""
    with katan() as running:
        yield running


@page
def test_python_runs(
    path: Path, model_path: Path, server: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page's Python blocks run one after the other, on the real model and a real server."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "snippets"}
    for line, block in blocks(path, "python"):
        code = "\n" * (line - 1) + block.replace(OWN_SERVER, server.url)
        exec(compile(code, str(path), "exec"), namespace)


def test_readme_escalates(capsys: pytest.CaptureFixture[str], server: Child, model_path: Path) -> None:
    """The README's own example of a hard question really ends in the cloud."""
    [code] = [block for _, block in blocks(README, "python") if "import OpenAI, Policy" in block]
    exec("from edgeai import Edge\n" + code.replace(OWN_SERVER, server.url), {})
    said = capsys.readouterr().out
    assert said.startswith("cloud low_confidence The cloud answered: the device's answer scored")


# commands


@page
def test_make_targets_exist(path: Path) -> None:
    """Every `make` command is one that make knows."""
    for command in commands(path, "make"):
        done = subprocess.run([*shlex.split(command), "-n"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@page
def test_edgeai_commands_are_understood(path: Path) -> None:
    """Every `edgeai` command names a verb and options that exist, and has the arguments it needs."""
    for command in commands(path, "edgeai"):
        understand(shlex.split(command)[1:])


def understand(words: list[str]) -> None:
    """Parse a command line without running it; what does not fit raises a usage error."""
    names, verb = [], typer.main.get_command(cli.app)
    context = verb.make_context("edgeai", [], resilient_parsing=True)
    while hasattr(verb, "get_command") and words and not words[0].startswith("-"):
        word = words.pop(0)
        verb = verb.get_command(context, word)
        assert verb is not None, f"there is no verb {word}"
        names.append(word)
    verb.make_context(" ".join(names), words, parent=context)


def test_readme_shows_every_verb() -> None:
    """The overview of the command line is complete."""
    shown = [command.split() for command in commands(README, "edgeai")]
    missing = [name for name in verbs() if not any(words[1:][: len(name)] == list(name) for words in shown)]
    assert missing == []


def test_readme_commands_run(model_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those commands that need neither a person nor a file of the reader's really run."""
    for command in commands(README, "edgeai"):
        if any(part in command for part in ("chat", "my-", "retry")):
            continue
        with pytest.raises(SystemExit) as ended:
            cli.main(shlex.split(command)[1:])
        assert ended.value.code in (0, None), capsys.readouterr().err
    assert "Au" in capsys.readouterr().out


def test_settings_are_listed() -> None:
    """README names the variable of every setting, and no other."""
    named = set(re.findall(rf"`({PREFIX}[A-Z_]+)`", README.read_text("utf-8")))
    known = {PREFIX + setting.name.upper() for setting in fields(Settings)}
    assert named == known | {"EDGEAI_CONFIG", "EDGEAI_HOME"}


def test_extras_are_listed() -> None:
    """README's table has every extra that users may install, and no other."""
    named = set(re.findall(r"^\| `([a-z]+)` \|", README.read_text("utf-8"), re.MULTILINE))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert named == extras.keys() - {"dev"}


def test_readme_settings_load(tmp_path: Path) -> None:
    """The example of a settings file is valid."""
    [(_, example)] = blocks(README, "toml")
    (tmp_path / "edgeai.toml").write_text(example)
    settings = Settings.load(environ={"EDGEAI_CONFIG": str(tmp_path / "edgeai.toml")})
    assert settings.privacy == "allow"


@page
def test_links_lead_somewhere(path: Path) -> None:
    """Links to files of the project, and to headings of the same page, have a target."""
    text = path.read_text("utf-8")
    headings = {
        re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-")
        for h in re.findall(r"^#+ (.*)", text, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings
        elif "://" not in target:
            assert (path.parent / target.partition("#")[0]).exists()


# tables


def rows(path: Path, header: str) -> list[list[str]]:
    """The cells of the table whose first column has this header, without backquotes."""
    lines = iter(path.read_text("utf-8").splitlines())
    assert any(line.startswith(f"| {header} |") for line in lines), f"no table of {header}"
    next(lines)
    table = []
    for line in lines:
        if not line.startswith("|"):
            break
        table.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
    return table


def test_every_reason_is_explained() -> None:
    """The table has every Reason once, in the enum's order, and knows which are reasons to stay."""
    table = rows(ROOT / "docs" / "escalation.md", "reason")
    assert [row[0] for row in table] == [reason.value for reason in Reason]
    assert {row[0] for row in table if row[1] == "stay"} == set(_EXPLAIN_STAY)
    assert all(row[1] in ("stay", "leave") and row[2] for row in table)


def test_every_score_is_explained() -> None:
    """The table names the scores that the monitor gives."""
    table = rows(ROOT / "docs" / "escalation.md", "score_name")
    assert [row[0] for row in table] == [monitor.MIN_TOKEN, monitor.LABEL]


def test_every_error_is_explained() -> None:
    """The table has every error with its place in the tree, its builtin, and whether to try again."""
    table = rows(ROOT / "docs" / "errors.md", "error")
    told = {name: (below, builtin, again) for name, below, builtin, again, _, _ in table}
    assert told == {error.__name__: facts(error) for error in descendants(EdgeError)}
    assert all(row[4] for row in table)


def descendants(error: type[EdgeError]) -> Iterator[type[EdgeError]]:
    """The error and all below it, without those that tests make."""
    if error.__module__ == errors.__name__:
        yield error
    for below in error.__subclasses__():
        yield from descendants(below)


def facts(error: type[EdgeError]) -> tuple[str, str, str]:
    """Its parent, the builtin beside it, and "yes" when it is retryable; empty where there is none."""
    ours = [base.__name__ for base in error.__bases__ if issubclass(base, EdgeError)]
    beside = [
        base.__name__ for base in error.__bases__ if base.__name__ not in ours and error is not EdgeError
    ]
    return "".join(ours), "".join(beside), "yes" if error.retryable else "no"


# generated parts


def verbs(group: object = None, name: tuple[str, ...] = ()) -> dict[tuple[str, ...], Verb]:
    """All verbs by their words."""
    group = group or typer.main.get_command(cli.app)
    if not isinstance(group, typer.core.TyperGroup):
        assert isinstance(group, typer.core.TyperCommand)
        return {name: group}
    context = group.make_context("edgeai", [], resilient_parsing=True)
    found: dict[tuple[str, ...], Verb] = {}
    if group.invoke_without_command and name:
        found[name] = group  # it does something of its own, too
    for word in group.list_commands(context):
        found |= verbs(group.get_command(context, word), (*name, word))
    return found


def cli_page() -> str:
    """docs/cli.md, from the help of the verbs."""
    parts = [
        "# Command line",
        f"Made from the program's own help; `{WRITE}` writes it anew.",
        "Answers and tables go to stdout, all else to stderr. Settings come from `edgeai.toml`, then the "
        "environment, then these options; the later wins.",
        *(part for name, verb in verbs().items() for part in verb_section(name, verb)),
        "## Exit codes",
        "| code | meaning |\n|---|---|\n"
        + "\n".join(f"| {code.value} | {meaning} |" for code, meaning in MEANINGS.items()),
    ]
    return "\n\n".join(parts) + "\n"


def verb_section(name: tuple[str, ...], verb: Verb) -> Iterator[str]:
    """A verb's heading, help, and the table of its arguments and options."""
    yield f"## edgeai {' '.join(name)}"
    yield " ".join((verb.help or "").split())
    lines = [
        f"| {parameter_name(parameter)} | {getattr(parameter, 'help', None) or ''} |"
        for parameter in verb.params
    ]
    if lines:
        yield "\n".join(["| option | meaning |", "|---|---|", *lines])


def parameter_name(parameter: typer.core.TyperOption | typer.core.TyperArgument | object) -> str:
    """How it is written: an argument in capitals, an option with all its names."""
    opts, secondary = getattr(parameter, "opts", []), getattr(parameter, "secondary_opts", [])
    if isinstance(parameter, typer.core.TyperArgument):
        name = opts[0].upper()
        return f"`{name}`" if parameter.required else f"`[{name}]`"
    return ", ".join(f"`{opt}`" for opt in [*opts, *secondary])


def tree() -> str:
    """The modules of the package, each with the first phrase of its docstring."""
    package = Path(edgeai.__file__).parent
    lines = ["edgeai/"]
    modules = [
        Path(folder, name)
        for folder, _, names in os.walk(package, followlinks=True)  # converters and device_profiles are links
        for name in names
        if name.endswith(".py")
    ]
    for path in sorted(modules, key=lambda path: (path.parent, path.name)):
        place = path.relative_to(package)
        if path.name == "__init__.py" and len(place.parts) > 1:
            lines.append(f"  {place.parent.as_posix() + '/':<26}{phrase(path)}")
        elif len(place.parts) == 1:
            lines.append(f"  {place.name:<26}{phrase(path)}")
        else:
            lines.append(f"    {place.name:<24}{phrase(path)}")
    return "```text\n" + "\n".join(line.rstrip() for line in lines) + "\n```\n"


def phrase(path: Path) -> str:
    """The first sentence of a module's docstring, or as much of it as fits a line."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").split()) + " "
    for end in (". ", "; ", ": ", ", "):
        if len(text) > WIDTH or end == ". ":
            text = text.partition(end)[0]
    return text.strip()


def with_tree(readme: str) -> str:
    """README with the tree as its last section."""
    return readme.partition("## The package\n")[0] + "## The package\n\n" + tree()


def test_cli_page_is_true() -> None:
    """docs/cli.md is what the program's help says now."""
    assert CLI_PAGE.read_text("utf-8") == cli_page(), f"run {WRITE}"


def test_readme_tree_is_true() -> None:
    """README's tree has every module, with what its docstring says it is."""
    readme = README.read_text("utf-8")
    assert readme == with_tree(readme), f"run {WRITE}"


def write() -> None:
    """Write the generated parts."""
    CLI_PAGE.write_text(cli_page(), "utf-8")
    README.write_text(with_tree(README.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    write()
