import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgeai import Edge
from edgeai.cli.exits import Exit
from edgeai.cli.options import read_adapter
from edgeai.errors import ConfigError
from edgeai.ledger import Ledger
from edgeai.monitor.contract import save
from edgeai.observe import observe
from tests.cli.conftest import EDGEAI, Run, Terminal
from tests.promises import CERTIFICATE, contract
from tests.servers import Child, katan
from tests.tiny_gguf import write_tiny_gguf
from tests.tiny_lora import write_lora

GOLD = "Name the chemical symbol for gold."
UNSURE = (
    "--min-score",
    "1",
    "--privacy",
    "allow",
    "--cloud",
    "openai:any",
    "--cloud-key-variable",
    "OUR_KEY",
)


@pytest.fixture(scope="module")
def server() -> Iterator[Child]:
    with katan("--validate-keys", "--api-keys", "openai=sk-right") as child:
        yield child


@pytest.fixture
def cloud(server: Child, monkeypatch: pytest.MonkeyPatch) -> Child:
    """A server that echoes the question and wants the key that OUR_KEY holds."""
    monkeypatch.setenv("OUR_KEY", "sk-right")
    return server


def test_the_answer_goes_to_stdout_and_its_story_to_stderr(run: Run, model: Path) -> None:
    """Stdout has the text alone; the last line of stderr says source, model, confidence, times and cost."""
    asked = run("ask", GOLD, "--max-tokens", "12")
    assert asked.code == 0
    assert asked.out.strip()
    assert asked.out.endswith("\n")
    last = asked.err.splitlines()[-1]
    assert last.startswith("device (unjudged) · smollm2-135m-instruct@llamacpp-q4_1 · ")
    assert [word for word in ("(uncalibrated)", "first token", "tok/s", "$0") if word not in last] == []


def test_a_contract_certifies_or_says_why_not(run: Run, model: Path, tmp_path: Path) -> None:
    """What it was made for is certified; with another limit of tokens the last line names the difference."""
    path = tmp_path / "gold.contract.json"
    with Edge(ledger=False) as edge:
        bound = observe(edge, GOLD, max_tokens=6).binding
    save(contract(bound, certificate=replace(CERTIFICATE, threshold=0.0)), path)
    kept = run("ask", GOLD, "--max-tokens", "6", "--contract", str(path)).err.splitlines()
    assert ", certified · " in kept[-2]
    assert "Certified: of the answers kept on the device" in kept[-1]
    other = run("ask", GOLD, "--max-tokens", "5", "--contract", str(path)).err.splitlines()
    assert "Not certified: it was calibrated for a limit of tokens of 6, and this is 5." in other[-1]
    both = run("ask", GOLD, "--min-score", "0.5", "--contract", str(path))
    assert (both.code, "both set" in both.err) == (Exit.USAGE, True)


def test_json(run: Run, model: Path) -> None:
    """With --json stdout is one object with the answer's fields, and the query is in the ledger."""
    asked = run("ask", "--json", "--max-tokens", "5", "--system", "Be brief.", stdin=GOLD)
    answer = json.loads(asked.out)
    assert (answer["source"], answer["reason"], answer["disclosed_bytes"]) == ("device", "unjudged", 0)
    assert answer["usage"]["completion_tokens"] <= 5
    assert asked.err == ""
    with Ledger.open() as ledger:
        assert ledger.totals().queries == 1


def test_no_ledger(run: Run, model: Path) -> None:
    """--no-ledger leaves no trace."""
    assert run("ask", "--no-ledger", "--max-tokens", "2", GOLD).code == 0
    with Ledger.open() as ledger:
        assert ledger.totals().queries == 0


def test_a_schema_shapes_the_answer(run: Run, model: Path, tmp_path: Path) -> None:
    """With --schema the answer is JSON that fits."""
    file = tmp_path / "schema.json"
    file.write_text('{"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}')
    asked = run("ask", "--schema", str(file), "One or two?")
    assert json.loads(asked.out)["n"] in (1, 2)


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_json_that_was_cut_off_is_a_failure(
    run: Run, model: Path, tmp_path: Path, form: tuple[str, ...]
) -> None:
    """A script must not take half an object for the answer; what there is stands on stdout."""
    file = tmp_path / "schema.json"
    file.write_text('{"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}')
    asked = run("ask", "--schema", str(file), "--max-tokens", "3", "A word?", *form)
    assert (asked.code, bool(asked.out.strip())) == (Exit.ENGINE, True)
    assert "Raise --max-tokens" in asked.err


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_narrow_stdout_shows_what_it_can(encoding: str, form: tuple[str, ...]) -> None:
    """Characters that stdout cannot encode end no answer, and JSON stays JSON."""
    program = (
        "from unittest import mock\nfrom edgeai import Edge\nfrom edgeai.testing import FakeEngine\n"
        "from edgeai.cli import main, opening\n"
        "made = Edge(engine=FakeEngine('\\u65e5\\U0001f642 e'), ledger=False)\n"
        "with mock.patch.object(opening, 'open_edge', lambda *given: made): main()"
    )
    command = [sys.executable, "-c", program, "ask", "hi", *form]
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    asked = subprocess.run(command, capture_output=True, env=environment, check=True)
    if form:
        assert json.loads(asked.stdout)["text"] == "日🙂 e"
    else:
        assert asked.stdout.split() == [b"\\u65e5\\U0001f642", b"e"]


def test_an_unsure_answer_is_replaced_by_the_cloud(run: Run, model: Path, cloud: Child) -> None:
    """In a pipe only the final text appears, and stderr says that it came from the cloud."""
    asked = run("ask", GOLD, "--max-tokens", "8", *UNSURE, "--cloud-base-url", cloud.url)
    assert asked.code == 0
    assert GOLD in asked.out  # the server echoes
    assert "cloud (low_confidence) · any · " in asked.err


def test_a_replaced_text_is_struck_through(
    terminal: Callable[..., Terminal], model: Path, cloud: Child
) -> None:
    """On a terminal the device's text is struck, a line says why, and the cloud's text follows."""
    # The first words of a poem are likely enough to be shown, and a later one is not.
    poem = "Write a poem about rain."
    address = ("--cloud-base-url", cloud.url)
    screen = terminal("ask", poem, "--max-tokens", "40", *UNSURE, *address, "--min-score", "0.25")
    assert "\x1b[J\x1b[2;9m" in screen.wait_for("— replaced by the cloud: low_confidence —")
    assert poem in screen.wait_for(r"cloud \(low_confidence\)")


def test_a_cloud_that_fails_loses_no_answer(
    run: Run, model: Path, cloud: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a wrong key the device's answer stands, and the last line says why."""
    monkeypatch.setenv("OUR_KEY", "sk-wrong")
    asked = run("ask", GOLD, "--max-tokens", "8", *UNSURE, "--cloud-base-url", cloud.url)
    assert (asked.code, bool(asked.out.strip())) == (0, True)
    assert "device (cloud_failed)" in asked.err


def test_privacy_keeps_everything_here(run: Run, model: Path, cloud: Child) -> None:
    """Without --privacy allow an unsure answer stays, although a cloud is configured."""
    local = (*UNSURE, "--privacy", "local", "--cloud-base-url", cloud.url)
    asked = run("ask", GOLD, "--max-tokens", "8", "--json", *local)
    answer = json.loads(asked.out)
    assert (answer["source"], answer["reason"], answer["disclosed_bytes"]) == ("device", "private", 0)


@pytest.mark.parametrize(
    ("args", "stdin", "code", "words"),
    [
        (
            ("--model", "smollm3", "hi"),
            "",
            Exit.MODEL,
            "error: There is no model named 'smollm3'. Did you mean",
        ),
        (("--model", "nowhere.gguf", "hi"), "", Exit.MODEL, "error: There is no model at nowhere.gguf."),
        (("--temperature", "99", "hi"), "", Exit.USAGE, "error: temperature is 99"),
        (("--min-score", "7", "hi"), "", Exit.USAGE, "error: min_score is 7"),
        (("--privacy", "none", "hi"), "", Exit.USAGE, "It must be 'local' or 'redact' or 'allow'"),
        (("--engine", "abacus", "hi"), "", Exit.USAGE, "error: engine is 'abacus'"),
        (("--cloud", "nobody:x", "hi"), "", Exit.USAGE, "error: 'nobody:x' names no cloud"),
        ((), "", Exit.USAGE, "error: The prompt is empty"),
        (("--schema", __file__, "hi"), "", Exit.USAGE, "is not a JSON schema"),
    ],
)
def test_errors_are_one_line_without_a_traceback(
    run: Run, model: Path, args: tuple[str, ...], stdin: str, code: Exit, words: str
) -> None:
    """Each kind of mistake has its exit code and says what to do; stdout stays empty."""
    asked = run("ask", *args, stdin=stdin)
    assert (asked.code, asked.out) == (code, "")
    assert words in asked.err
    assert "Traceback" not in asked.err


def test_a_damaged_ledger_is_named(run: Run, model: Path, home: Path) -> None:
    """A ledger that cannot be used stops the query before it starts, and --no-ledger works around it."""
    (home / "data").mkdir(parents=True)
    (home / "data" / "ledger.sqlite3").write_bytes(b"no database" * 100)
    assert run("ask", GOLD).code == Exit.LEDGER
    assert run("ask", "--no-ledger", "--max-tokens", "2", GOLD).code == 0


def test_ctrl_c_ends_the_answer(model: Path) -> None:
    """Ctrl-C in the middle of an answer: what was said stays, the code is 130, and the ledger knows."""
    asked = subprocess.Popen(
        [*EDGEAI, "ask", "--max-tokens", "4000", "--temperature", "2", "Count to a thousand."],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    assert asked.stdout is not None
    first = asked.stdout.read(1)
    asked.send_signal(signal.SIGINT)
    out, err = asked.communicate(timeout=60)
    assert (asked.returncode, bool(first + out)) == (Exit.STOPPED, True)
    assert b"stopped" in err.splitlines()[-1]
    assert b"Traceback" not in err
    with Ledger.open() as ledger:
        assert [row.finish_reason for row in ledger.rows()] == ["cancelled"]


def test_the_terminal_answers_under_an_adapter(tmp_path: Path, run: Run) -> None:
    """`edgeai ask --adapter NAME=PATH` says what the app would get; a slip of the pen is an error."""
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    file = write_lora(tmp_path / "one.gguf", model)
    given = ["ask", "Hello", "--model", str(model), "--max-tokens", "4", "--no-ledger", "--json"]
    asked = run(*given, "--adapter", f"one={file}")
    with Edge(model, adapters={"one": file}, ledger=False) as edge:
        expected = edge.ask("Hello", adapter="one", max_tokens=4)
    said = json.loads(asked.out)
    assert (said["text"], said["model"]) == (expected.text, expected.model)
    with pytest.raises(ConfigError, match="NAME=PATH"):
        read_adapter(str(file))
