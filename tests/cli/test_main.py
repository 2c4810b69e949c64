import json
import os
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from edgeai import errors
from edgeai.cli import VERBS
from edgeai.cli.exits import MEANINGS, Exit, exit_code
from tests.cli.conftest import EDGEAI, Run


def leaves(kind: type[errors.EdgeError]) -> list[type[errors.EdgeError]]:
    """The ends of the tree below ``kind``."""
    below = kind.__subclasses__()
    return [leaf for child in below for leaf in leaves(child)] or [kind]


def test_the_help_names_verbs_and_exit_codes(run: Run) -> None:
    """`--help` lists every verb and every exit code with its meaning."""
    shown = run("--help")
    text = " ".join(shown.out.split())
    assert shown.code == 0
    assert [verb for verb in VERBS if f" {verb} " not in text] == []
    assert [code for code, meaning in MEANINGS.items() if f"{code.value} {meaning}" not in text] == []


@pytest.mark.parametrize(
    "verb", [(verb,) for verb in VERBS] + [("models", "pull"), ("bench", "model"), ("contracts", "show")]
)
def test_each_verb_has_help_and_json(run: Run, verb: tuple[str, ...]) -> None:
    """Every verb explains itself, and offers JSON where it writes a result."""
    shown = run(*verb, "--help")
    assert shown.code == 0
    assert "--json" in shown.out or verb in (("models",), ("bench",), ("contracts",), ("queue",), ("warm",))


def test_the_version(run: Run) -> None:
    """`--version` is the installed package's."""
    assert run("--version").out == f"edgeai {version('edgeai')}\n"


def test_a_mistyped_verb(run: Run) -> None:
    """A verb that does not exist is a usage error that names the nearest one."""
    shown = run("aks", "hello")
    assert shown.code == Exit.USAGE
    assert shown.err == "error: There is no verb 'aks'. Did you mean 'ask'?\n"


@pytest.mark.parametrize(
    ("args", "code", "kind"),
    [
        (("ask", "--json", "--temperature", "99", "hi"), Exit.USAGE, "ConfigError"),
        (("chat", "--model", "nowhere.gguf", "--json"), Exit.MODEL, "ModelNotFound"),
        (("models", "verify", "--json", "nowhere"), Exit.MODEL, "ModelNotFound"),
        (("ledger", "--json", "--since", "x"), Exit.USAGE, "ConfigError"),
        (("ask", "--json", "--temprature", "1", "hi"), Exit.USAGE, "ConfigError"),
        (("ask", "--json", "--max-tokens", "many", "hi"), Exit.USAGE, "ConfigError"),
        (("models", "pull", "--json"), Exit.USAGE, "ConfigError"),
        (("models", "pul", "--json"), Exit.USAGE, "ConfigError"),
    ],
)
def test_errors_for_programs(run: Run, args: tuple[str, ...], code: Exit, kind: str) -> None:
    """With --json an error is one JSON object on stderr, with the exit code of any other form."""
    shown = run(*args)
    error = json.loads(shown.err)["error"]
    assert (shown.code, shown.out, error["class"]) == (code, "", kind)
    assert set(error) == {"class", "what", "why", "remedy"}


def test_json_of_a_success_ends_with_0(run: Run) -> None:
    """What a verb does with --json has the exit code that it has without."""
    assert run("models", "list", "--json").code == Exit.OK
    assert run("ask", "--json", "--help").code == Exit.OK


@pytest.mark.parametrize(
    ("shell", "code", "said"),
    [
        ("{} models list >/dev/full", Exit.MODEL, "error: The output cannot be written. No space left"),
        ("{} models list >&-", Exit.USAGE, "error: There is no stdout to write to."),
        ("{} ask <&-", Exit.USAGE, "error: The prompt is empty."),
        (r"printf '\377' | LC_ALL=C {} ask", Exit.USAGE, "error: The question is not valid text."),
    ],
)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_broken_streams(model_path: Path, shell: str, code: Exit, said: str) -> None:
    """A full, closed or garbled stream is one line on stderr, and no traceback."""
    shown = subprocess.run(
        ["sh", "-c", shell.format(shlex.join(EDGEAI))], capture_output=True, text=True, check=False
    )
    assert shown.returncode == code
    assert shown.stderr.startswith(said)
    assert len(shown.stderr.splitlines()) == 1


def test_a_question_about_json(run: Run) -> None:
    """What comes after -- is no option."""
    assert run("ask", "--temperature", "99", "--", "--json").err.startswith("error: ")


def test_a_mistyped_option(run: Run) -> None:
    """An unknown option is a usage error."""
    assert run("ask", "--temprature", "1", "hello").code == Exit.USAGE


@pytest.mark.parametrize("leaf", leaves(errors.EdgeError), ids=lambda leaf: leaf.__name__)
def test_each_error_has_an_exit_code(leaf: type[errors.EdgeError]) -> None:
    """No error of the tree ends as the code that Python gives a bug, but for gates: a check that failed."""
    made = errors.BothFailed("x", [errors.CloudAuth("y")]) if leaf is errors.BothFailed else leaf("x")
    assert exit_code(made) != Exit.OK
    assert (exit_code(made) == Exit.PROBLEM) == (leaf is errors.GateFailed)


def test_the_help_loads_nothing_heavy() -> None:
    """Help must be quick: no engine, no network, no Rich, no database."""
    code = (
        "import sys\nfrom edgeai.cli import main\ntry: main(['--help'])\n"
        "except SystemExit: print([m for m in ('numpy', 'httpx', 'llama_cpp', 'rich', 'jinja2', 'sqlite3') "
        "if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "[]"


def test_the_shell_can_complete() -> None:
    """The completion script of a shell is there, and completes verbs and models."""
    from edgeai.cli.options import complete_model

    told = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # make runs us from sh
    script = subprocess.run(
        [*EDGEAI, "--show-completion", "bash"], capture_output=True, text=True, check=False, env=told
    )
    assert "complete" in script.stdout
    assert "smollm2-135m-instruct" in complete_model("smol")
