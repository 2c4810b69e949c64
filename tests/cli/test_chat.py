import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeai import Edge
from edgeai.cli.chat import Talk
from edgeai.testing import FakeEngine
from tests.cli.conftest import EDGEAI, Run, Terminal

PROMPT = "› "


def test_a_conversation_on_a_terminal(terminal: Callable[..., Terminal], model: Path, tmp_path: Path) -> None:
    """Ctrl-C stops the answer and not the program; commands work; Ctrl-D leaves with code 0."""
    screen = terminal("chat", "--max-tokens", "3000", "--temperature", "2", "--seed", "1")
    screen.wait_for(PROMPT)
    screen.write("Write a very long story about a lighthouse.\r")
    screen.wait_for("lighthouse.[^a-zA-Z]+[a-zA-Z]")
    screen.interrupt()
    assert "device (" in screen.wait_for("stopped")
    screen.wait_for(PROMPT)
    screen.interrupt_until("Ctrl-D or /exit leaves")
    screen.write(f"/save {tmp_path / 'talk.md'}\r")
    screen.wait_for("Saved 2 turns")
    screen.wait_for(PROMPT)  # an earlier Ctrl-D would be the terminal's, not the prompt's
    screen.write("\x04")
    assert screen.process.wait(30) == 0
    assert "## user\n\nWrite a very long story" in (tmp_path / "talk.md").read_text()


def test_json_lines(run: Run, model: Path) -> None:
    """With --json each line of stdin is a turn of one conversation, and each answer a line of JSON."""
    talked = run("chat", "--json", "--max-tokens", "3", stdin="Hello.\n\nAgain.\n")
    first, second = (json.loads(line) for line in talked.out.splitlines())
    assert first["source"] == second["source"] == "device"
    assert second["usage"]["prompt_tokens"] > first["usage"]["prompt_tokens"]


def test_json_lines_survive_an_error(run: Run, model: Path) -> None:
    """A turn that fails is answered by its error, one line of JSON, and the next turn by an answer."""
    long = "word " * 5000
    talked = run("chat", "--json", "--max-tokens", "3", stdin=f"{long}\nHello.\n")
    first, second = (json.loads(line) for line in talked.out.splitlines())
    assert first["error"]["class"] == "ContextOverflow"
    assert set(first["error"]) == {"class", "what", "why", "remedy"}
    assert second["source"] == "device"
    assert (talked.code, talked.err) == (0, "")


def test_a_bad_byte_does_not_end_the_conversation(model: Path) -> None:
    """A line that is not UTF-8 is a turn like any other."""
    command = [*EDGEAI, "chat", "--json", "--max-tokens", "2"]
    talked = subprocess.run(command, input=b"hi \xff\xfe\nhello\n", capture_output=True, check=True)
    assert [json.loads(line)["source"] for line in talked.stdout.splitlines()] == ["device", "device"]


@pytest.fixture
def talk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[Talk, str]]:
    """Type lines into a conversation with an engine that says one sentence; the talk, and what was shown."""

    def typed(*lines: str) -> tuple[Talk, str]:
        waiting = iter(lines)

        def read(prompt: str) -> str:
            line = next(waiting, None)
            if line is None:
                raise EOFError
            if line == "^C":
                raise KeyboardInterrupt
            return line

        monkeypatch.setattr("builtins.input", read)
        with Edge(engine=FakeEngine("It is gold."), ledger=False) as edge:
            talked = Talk(chat=edge.chat("Be brief."), options={}, may_leave=False)
            talked.run()
        text = capsys.readouterr()
        return talked, text.out + text.err

    return typed


def test_answers_and_their_source(talk: Callable[..., tuple[Talk, str]]) -> None:
    """Each answer is followed by the line that says where it came from, and the turns are remembered."""
    talked, shown = talk("What is Au?", "And now?")
    assert shown.count("It is gold.\n") == 2
    assert shown.count("device (unjudged) · fake") == 2
    assert [turn.role for turn in talked.chat.messages] == ["system", *["user", "assistant"] * 2]


def test_exit_ends_before_the_input_does(talk: Callable[..., tuple[Talk, str]]) -> None:
    """/exit leaves at once."""
    assert "gold" not in talk("/exit", "What is Au?")[1]


def test_clear_keeps_the_system_message(talk: Callable[..., tuple[Talk, str]]) -> None:
    """/clear forgets the turns and keeps what the model should be."""
    talked, _ = talk("What is Au?", "/clear")
    assert [turn.text for turn in talked.chat.messages] == ["Be brief."]


def test_system_replaces_the_system_message(talk: Callable[..., tuple[Talk, str]]) -> None:
    """/system changes what the model should be and keeps the turns; alone it shows it."""
    talked, shown = talk("What is Au?", "/system Be rude.", "/system")
    assert [turn.text for turn in talked.chat.messages] == ["Be rude.", "What is Au?", "It is gold."]
    assert shown.count("System: Be rude.") == 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/help", "/clear"),
        ("/sing", "error: There is no command /sing. /help lists the commands."),
        ("/save", "error: No file was named. /save FILE."),
        ("/save /nowhere/at/all", "cannot be written"),
        ("^C", "Ctrl-D or /exit leaves."),
    ],
)
def test_commands_say_what_they_do(talk: Callable[..., tuple[Talk, str]], line: str, words: str) -> None:
    """Help helps, and a mistake does not end the conversation."""
    _, shown = talk(line, "What is Au?")
    assert words in shown
    assert "It is gold." in shown
