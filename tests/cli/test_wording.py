"""What is mistyped is called as it was typed, and the error says what to type."""

from pathlib import Path

import pytest

from edgeai.cli import main
from edgeai.edge import Turns
from edgeai.errors import ConfigError, ContractInvalid
from edgeai.monitor.contract import load
from edgeai.options import check_listener


def said(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """What a usage error writes."""
    with pytest.raises(SystemExit) as ended:
        main(args)
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "option"),
    [
        (("ask", "hi", "--n-ctx", "0"), "--n-ctx is 0"),
        (("chat", "--deadline", "0"), "--deadline is 0.0"),
        (("devices", "--goal", "fame"), "--goal is 'fame'"),
    ],
)
def test_a_wrong_value_names_the_option(
    capsys: pytest.CaptureFixture[str], args: tuple[str, ...], option: str
) -> None:
    """Not the keyword of the Python API."""
    assert option in said(capsys, *args)


def test_words_without_quotes(capsys: pytest.CaptureFixture[str]) -> None:
    """The remedy is the command to type."""
    assert 'edgeai ask "hi there"' in said(capsys, "ask", "hi", "there")


def test_a_missing_contract_is_missing(tmp_path: Path) -> None:
    """And not a damaged one."""
    with pytest.raises(ContractInvalid, match="There is no contract at"):
        load(tmp_path / "none.contract.json")


def test_listeners_can_be_called_and_system_is_text() -> None:
    """Else the mistake would show in a thread, or at the first question."""
    assert check_listener(print) is print
    with pytest.raises(ConfigError, match="a int"):
        check_listener(3)  # type: ignore[type-var]  # the mistake
    with pytest.raises(ConfigError, match="system is a int"):
        Turns(3)  # type: ignore[arg-type]  # the mistake
