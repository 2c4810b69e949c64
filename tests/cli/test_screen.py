import io
from contextlib import redirect_stdout
from dataclasses import replace

import pytest

from edgeai import Answer, Edge, Policy
from edgeai.cli.screen import show, summary
from edgeai.errors import EngineCrashed
from edgeai.testing import FakeCloud, FakeEngine
from edgeai.types import Reason

ALLOW = Policy(privacy="allow")


class Tty(io.StringIO):
    """A stdout that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten rows of forty columns."""
    for name, value in {"TERM": "xterm", "COLUMNS": "40", "LINES": "10"}.items():
        monkeypatch.setenv(name, value)


def ask(text: str, *, leave: bool = False) -> None:
    """Show an answer of the device, which breaks off at its end if ``leave``; then the cloud answers."""
    error = EngineCrashed("the engine broke") if leave else None
    engine = FakeEngine(text, error=error, fails_after=len(text.split()))
    with Edge(engine=engine, cloud=FakeCloud("The cloud's."), policy=ALLOW, ledger=False) as edge:
        show(edge.stream("Why?"), may_leave=True)


def on_terminal(text: str, *, leave: bool = False) -> str:
    """What a terminal gets."""
    with redirect_stdout(Tty()) as tty:
        ask(text, leave=leave)
    return tty.getvalue()


def test_a_withdrawn_text_is_struck_where_it_stands() -> None:
    """The cursor goes back over all rows of the text, which is written again struck through."""
    old = "A long answer that fills the first row and goes on in the second."
    before, _, after = on_terminal(old, leave=True).partition("\r\x1b[1A\x1b[J")
    assert before.startswith(old)
    assert "\x1b[2;9m" in after
    assert "— replaced by the cloud: engine_error —" in after
    assert after.endswith("The cloud's.\n")


def test_a_text_that_scrolled_away_is_left() -> None:
    """What is longer than the screen is not written again; the line that says why is."""
    shown = on_terminal("many words " * 100, leave=True)
    assert "\x1b[J" not in shown
    assert "— replaced by the cloud" in shown


def test_a_model_cannot_play_with_the_terminal() -> None:
    """Escape sequences in a model's text do not reach the terminal; lines and tabs do."""
    assert on_terminal("red: \x1b[31m alert\x07\x9b2J\tand\nso on") == "red: [31m alert2J\tand\nso on\n"


def test_an_error_starts_on_a_line_of_its_own() -> None:
    """What was shown before the engine broke stays, and the line ends."""
    engine = FakeEngine("Half an answer.", error=EngineCrashed("the engine broke"), fails_after=2)
    tty = Tty()
    with Edge(engine=engine, ledger=False) as edge, redirect_stdout(tty), pytest.raises(EngineCrashed):
        show(edge.stream("Why?"), may_leave=False)
    assert tty.getvalue() == "Half an \n"


def test_a_pipe_gets_the_final_text_only(capsys: pytest.CaptureFixture[str]) -> None:
    """Where text cannot be withdrawn nothing is shown before it is final, and nothing is changed."""
    ask("The device's.", leave=True)
    assert capsys.readouterr().out == "The cloud's.\n"
    ask("The \x1bdevice's.")
    assert capsys.readouterr().out == "The \x1bdevice's.\n"


def test_unknown_is_called_unknown() -> None:
    """The last line never shows a number that nobody knows."""
    answer = Answer(text="", source="cloud", model="m", reason=Reason.POLICY, explanation="")
    assert summary(answer) == (
        "cloud (policy) · m · confidence unknown · first token unknown · speed unknown · cost unknown"
    )


def test_a_calibrated_confidence_is_a_percentage() -> None:
    """A probability is shown as one, and a price with its digits."""
    answer = Answer(
        text="",
        source="cloud",
        model="m",
        reason=Reason.POLICY,
        explanation="",
        confidence=0.934,
        cost_usd=0.00012,
        finish_reason="length",
    )
    assert "confidence 93%, not certified" in summary(answer)
    assert "confidence 93%, certified" in summary(replace(answer, certified=True))
    assert summary(answer).endswith("$0.00012 · cut off at --max-tokens")
