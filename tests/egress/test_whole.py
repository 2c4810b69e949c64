"""Through the whole Edge: what is previewed is what is sent and recorded, and the answer comes back whole."""

import ast
import hashlib
import sys
from pathlib import Path

import pytest

import edgeai
from edgeai import Edge, MissingExtra, Policy, PrivacyViolation
from edgeai.ledger import Ledger
from edgeai.testing import FakeCloud, FakeEngine, assert_no_egress
from edgeai.types import Message, Reason

REDACT = Policy(privacy="redact", prefer="cloud")
SECRET = "ana@example.com"
QUESTION = f"Please write a short and friendly letter to {SECRET} about lunch."
PACKAGE = Path(edgeai.__file__).parent


def an_edge(cloud: FakeCloud, policy: Policy = REDACT, *, ledger: Path | bool = False) -> Edge:
    return Edge(engine=FakeEngine("Here."), cloud=cloud, policy=policy, ledger=ledger)


def test_preview_is_what_is_sent_and_recorded(tmp_path: Path) -> None:
    """Byte for byte, with its hash in the record; the secret is in the answer and not in the bytes."""
    cloud = FakeCloud("I wrote to <EMAIL_1> and <EMAIL_1>'s friend.")
    with an_edge(cloud, ledger=tmp_path / "l.sqlite3") as edge:
        preview = edge.preview(QUESTION)
        assert cloud.received == []
        answer = edge.ask(QUESTION)
    assert SECRET not in preview.text
    assert cloud.encode(cloud.received[0]) == preview.body
    assert answer.text == f"I wrote to {SECRET} and {SECRET}'s friend."
    with Ledger.open(tmp_path / "l.sqlite3") as ledger:
        (row,) = ledger.disclosures.rows()
        assert ledger.disclosures.verify().faults == ()
    assert row.sha256 == hashlib.sha256(preview.body).hexdigest()
    assert (row.endpoint, row.n_bytes, row.redactions) == (preview.endpoint, len(preview.body), {"EMAIL": 1})


def test_too_much_stays_with_the_reason() -> None:
    """When redaction would take most of the question, the device answers and says why."""
    with an_edge(FakeCloud()) as edge:
        answer = edge.ask(SECRET)
    assert (answer.source, answer.reason, answer.disclosed_bytes) == ("device", Reason.PRIVATE, 0)
    assert "Redaction would replace" in answer.explanation


def test_no_record_no_sending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be recorded does not leave."""
    cloud = FakeCloud()
    with an_edge(cloud, ledger=tmp_path / "l.sqlite3") as edge:
        (tmp_path / "l.sqlite3.head").mkdir()
        answer = edge.ask(QUESTION)
    assert cloud.received == []
    assert answer.source == "device"


def test_labels_keep_a_query_here() -> None:
    """A label without a rule stays; its device's answer carries the label on in a chat."""
    cloud = FakeCloud()
    with an_edge(cloud, policy=Policy(privacy="allow", prefer="cloud")) as edge, assert_no_egress():
        chat = edge.chat()
        assert chat.ask([Message("user", "my blood pressure", label="health")]).source == "device"
        assert chat.messages[-1].label == "health"
        assert chat.ask("and now?").reason is Reason.PRIVATE


def test_assert_no_egress_hears_a_fake_cloud() -> None:
    """A release to any cloud is refused in the block, and fails it although the device answered."""
    cloud = FakeCloud()
    with an_edge(cloud) as edge:
        with pytest.raises(AssertionError, match=r"cloud\.invalid"), assert_no_egress():
            assert edge.ask(QUESTION).source == "device"
        assert cloud.received == []
        assert edge.ask(QUESTION).source == "cloud"


@pytest.mark.parametrize("library", ["phonenumbers", "stdnum"])
def test_redaction_is_never_silently_weaker(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra an Edge that redacts cannot be made, by its policy or by a label's rule."""
    for name in [
        n
        for n in sys.modules
        if n.startswith(("edgeai.egress.recognise", "edgeai.egress.numbers", "edgeai.egress.phones"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    for policy in (REDACT, Policy(labels={"a": "redact"})):
        with pytest.raises(MissingExtra, match="privacy"):
            an_edge(FakeCloud(), policy=policy)
    with an_edge(FakeCloud(), policy=Policy()) as edge, pytest.raises(MissingExtra, match="privacy"):
        edge.ask("q", policy=REDACT)


def test_preview_refuses_what_may_not_leave() -> None:
    """A private or local query has no preview."""
    with an_edge(FakeCloud()) as edge:
        for policy, message in (
            (Policy(), Message("user", "q")),
            (REDACT, Message("user", "q", private=True)),
        ):
            with pytest.raises(PrivacyViolation):
                edge.preview([message], policy=policy)


NETWORK = {
    "socket",
    "ssl",
    "http",
    "urllib.request",
    "httpx",
    "requests",
    "aiohttp",
    "websockets",
    "ftplib",
    "smtplib",
}


def test_nobody_else_opens_connections() -> None:
    """Only `edgeai.net` imports what can connect; only the gate makes a Released; who sends asked the gate.

    Queries, audits and what waited in the queue: there is no fourth way out.
    """
    connects, makes, submits, opens = set(), set(), set(), set()
    for path in PACKAGE.rglob("*.py"):
        where = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            if any(name == bad or name.startswith(f"{bad}.") for name in names for bad in NETWORK):
                connects.add(where)
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called == "Released":
                    makes.add(where)
                if called.endswith("net.submit"):
                    submits.add(where)
                if called.endswith("record.disclose"):
                    opens.add(where)
    assert {where for where in connects if not where.startswith("net/")} <= {"testing.py"}
    assert makes == {"egress/outbound.py"}
    assert submits == {"audit.py", "call.py", "resend.py"}
    assert opens == submits
