"""Every sample is run as a user runs it, on the real model."""

import contextlib
import gc
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import pytest

from edgeai import Edge, EngineCrashed, Policy
from edgeai.ledger import Entry, Ledger
from edgeai.testing import FakeCloud, FakeEngine
from tests.servers import _child as child
from tests.servers import katan

if TYPE_CHECKING:
    from samples.desktop_chat import Window

SAMPLES = Path(__file__).parent.parent / "samples"

pytestmark = pytest.mark.usefixtures("model_path")

# Ends the process at the first attempt to leave it, whatever the sample makes of errors.
OFFLINE = """
import os, runpy, sys
def watch(event, args):
    if event == "socket.getaddrinfo" or event == "socket.connect" and isinstance(args[1], tuple):
        os.write(2, f"{event} {args}".encode())
        os._exit(99)
sys.addaudithook(watch)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(sample: str, *args: str, stdin: str = "", offline: bool = False, **environment: str) -> str:
    """What a sample prints; it must end well."""
    start = ["-c", OFFLINE] if offline else []
    done = subprocess.run(
        [sys.executable, *start, str(SAMPLES / sample), *args],
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONUTF8": "1", **environment},
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_quickstart() -> None:
    """It asks, streams, chooses and extracts, without a connection."""
    said = run("quickstart.py", offline=True)
    assert "Au" in said
    assert "[device, smollm2-135m-instruct" in said
    assert "shipping, at " in said
    assert "'day': 'Friday'" in said


def test_escalation_withdraws_the_devices_text() -> None:
    """A question that the device is unsure of ends in the cloud, with what was withdrawn still to be seen."""
    with katan() as cloud:
        said = run("escalate.py", "--base-url", cloud.url, "--model", "big", CLOUD_API_KEY="any")
    device, withdrawn, now = said.partition("withdrawn (low_confidence)")
    assert device.startswith("device: The ")
    assert withdrawn
    assert "cloud: " in now
    assert "Nobel" in now
    assert "below 0.15. " in now
    assert " 0 bytes left" not in now


def test_escalation_is_for_hard_questions() -> None:
    """A question that the device is sure of stays, although a cloud is there."""
    with katan() as cloud:
        question = "Name the capital of Australia."
        said = run("escalate.py", question, "--base-url", cloud.url, "--model", "big")
    assert "device: The capital of Australia is Canberra." in said
    assert " 0 bytes left the device." in said


def test_escalation_without_a_cloud_says_so() -> None:
    """Without a cloud the device answers, and the sample says what is missing and why it matters."""
    said = run("escalate.py", CLOUD_MODEL="")
    assert said.startswith("No cloud is given")
    assert "but no cloud is configured. 0 bytes left the device." in said


def test_escalation_to_a_wrong_key_keeps_the_answer() -> None:
    """A cloud that refuses the key loses no answer, and the reason is told."""
    with katan("--validate-keys", "--api-keys", "openai=right") as cloud:
        said = run("escalate.py", CLOUD_BASE_URL=cloud.url, CLOUD_MODEL="big", CLOUD_API_KEY="wrong")
    assert "device: The " in said
    assert "but the cloud failed" in said


def test_redaction_shows_what_leaves_and_comes_back() -> None:
    """The bytes shown hold placeholders and are as many as left; the echoed answer holds the secrets."""
    with katan() as cloud:
        said = run("redact.py", "--base-url", cloud.url, "--model", "big", CLOUD_API_KEY="any")
    left, _, answer = said.partition("\n\n")
    secrets = ("ana.kovac@example.com", "4111 1111 1111 1111", "ORD-10023344")
    for secret, placeholder in zip(secrets, ("<EMAIL_1>", "<CARD_1>", "<ORDER_1>"), strict=True):
        assert secret not in left
        assert placeholder in left
        assert secret in answer
        assert placeholder not in answer
    n_bytes = left.partition("would go ")[2].partition(" bytes")[0]
    assert f"[cloud, {n_bytes} bytes left]" in answer


def test_kiosk_never_touches_the_network() -> None:
    """Two visitors are answered from the guide's text, each in a conversation of its own."""
    said = run(
        "kiosk_offline.py", stdin="Where are the dinosaurs?\n\nWhere are the minerals?\n", offline=True
    )
    assert "first floor" in said
    assert "second floor" in said
    assert said.count("Ask me about the museum.") == 2
    assert "The network was tried 0 times." in said


def test_documents_stay_on_the_premises(tmp_path: Path) -> None:
    """The nearest file is found for each question, and the answer comes out of it, without a connection."""
    (tmp_path / "leave.txt").write_text(
        "Employees may carry over five days of unused leave into the next year. Ask your team lead."
    )
    (tmp_path / "kitchen.txt").write_text("The coffee machine is cleaned every Friday at 16:00.")
    (tmp_path / "money.md").write_text(
        "Invoices above 10,000 euros need two signatures: finance, and the head of the department."
    )
    (tmp_path / "visitors.txt").write_text(
        "Visitors park in the yard behind building C. The gate opens with the code 4711."
    )
    questions = ["What is the gate code?", "When is the coffee machine cleaned?"]
    said = run("onprem_documents.py", str(tmp_path), *questions, offline=True)
    gate, coffee = said.split("\n" + questions[1])
    answer, _, source = gate.partition("[visitors.txt]")
    assert "4711" in answer
    assert source
    answer, _, source = coffee.partition("[kitchen.txt]")
    assert "16:00" in answer
    assert source


# the backend


class Backend(NamedTuple):
    url: str
    ledger: Path


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory, model_path: Path) -> Iterator[Backend]:
    """The backend under uvicorn, in a process and with a home of its own."""
    home = tmp_path_factory.mktemp("backend")
    (home / "cache" / "models").mkdir(parents=True)
    package = model_path.parent
    (home / "cache" / "models" / package.name).symlink_to(package, target_is_directory=True)
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(SAMPLES), "backend_fastapi:app"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEAI_HOME", str(home))
        with child(command, ready="/openapi.json") as server:
            yield Backend(server.url.removesuffix("/v1"), home / "data" / "ledger.sqlite3")


def events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The names and data of server-sent events."""
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def ask(url: str, text: str, max_tokens: int = 60) -> list[tuple[str, dict[str, Any]]]:
    """All events of one answer."""
    with httpx.stream(
        "POST", f"{url}/ask", json={"text": text, "max_tokens": max_tokens}, timeout=60
    ) as came:
        assert came.status_code == 200
        assert came.headers["content-type"].startswith("text/event-stream")
        return list(events(came.iter_lines()))


def test_backend_streams(backend: Backend) -> None:
    """The answer comes in several events, of which the first holds what was kept back."""
    *deltas, (last, done) = ask(backend.url, "Why is the sky blue?")
    assert {name for name, _ in deltas} == {"delta"}
    assert len(deltas) > 3
    assert len(deltas[0][1]["text"].split()) >= 8
    assert max(len(data["text"].split()) for _, data in deltas[2:]) < 8
    assert last == "done"
    assert done["source"] == "device"


def test_backend_refuses_bad_input(backend: Backend) -> None:
    """An empty question is refused by its schema, and one that is too long by the engine, as an event."""
    assert httpx.post(f"{backend.url}/ask", json={"text": ""}).status_code == 422
    [(name, data)] = ask(backend.url, "𓂀" * 4000)
    assert name == "error"
    assert "context" in data["message"]
    assert data["retryable"] is False


def test_backend_forgets_a_client_that_left(backend: Backend) -> None:
    """When the client disconnects its query is cancelled long before the end, and the next is answered."""
    story = {"text": "Write a long story about the sea.", "max_tokens": 2000}
    with httpx.stream("POST", f"{backend.url}/ask", json=story, timeout=60) as came:
        assert next(events(came.iter_lines()))[0] == "delta"
    assert ask(backend.url, "Name the chemical symbol for gold.")[-1][0] == "done"

    def stories() -> list[Entry]:
        with Ledger.open(backend.ledger) as ledger:
            return [row for row in ledger.rows() if row.finish_reason == "cancelled"]

    assert until(lambda: bool(stories()), limit_s=10)
    assert (stories()[0].completion_tokens or 0) < 1000


# the window


@pytest.fixture(scope="module")
def _display() -> Iterator[None]:
    """A display: the one that is there, or a virtual one. Only outside CI may it be missing."""
    missing = what_is_missing()
    if missing and os.environ.get("CI") == "true":
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    if sys.platform != "linux" or os.environ.get("DISPLAY"):
        yield
        return
    with virtual_display() as number, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISPLAY", f":{number}")
        yield


def what_is_missing() -> str | None:
    try:
        import tkinter  # noqa: F401  # only whether it is there
    except ImportError:
        return "tkinter is missing: install python3-tk"
    if sys.platform == "linux" and not os.environ.get("DISPLAY") and not shutil.which("Xvfb"):
        return "Xvfb is missing: install xvfb"
    return None


@contextlib.contextmanager
def virtual_display() -> Iterator[int]:
    """Xvfb on a number that is free; it says which."""
    ours, its = os.pipe()
    command = ["Xvfb", "-displayfd", str(its), "-screen", "0", "1024x768x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=[its], stderr=subprocess.DEVNULL)
    os.close(its)
    try:
        with os.fdopen(ours) as said:
            yield int(said.readline())
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture
def open_window(_display: None) -> Iterator[Callable[[Edge], "Window"]]:
    """Opens the sample's window on an Edge, and destroys it in the thread that made it."""
    from samples.desktop_chat import Window

    opened: list[Window] = []

    def open_(edge: Edge) -> Window:
        opened.append(Window(edge))
        return opened[-1]

    yield open_
    for window in opened:
        with contextlib.suppress(Exception):
            window.destroy()
    opened.clear()
    del window
    gc.collect()  # Tcl dies when another thread happens to collect its interpreter


def until(
    true: Callable[[], bool], *, limit_s: float = 30, meanwhile: Callable[[], None] = lambda: None
) -> bool:
    """Wait until something is true; False when it did not become true in time."""
    end = time.monotonic() + limit_s
    while not true():
        if time.monotonic() > end:
            return False
        meanwhile()
        time.sleep(0.005)
    return True


def text_of(window: "Window") -> str:
    return window.log.get("1.0", "end")


def say(window: "Window", question: str) -> None:
    """Type a question and press Return."""
    window.entry.insert(0, question)
    window.entry.focus_force()
    window.update()
    window.entry.event_generate("<Return>")
    window.update()


def test_desktop_streams_and_stays_responsive(open_window: Callable[[Edge], "Window"]) -> None:
    """The answer grows in the log while the window takes key strokes, and its source is shown."""
    with Edge() as edge:
        window = open_window(edge)
        say(window, "Why is the sky blue?")
        seen: set[str] = set()

        def look() -> None:
            window.update()
            seen.add(text_of(window))
            if len(seen) == 3:
                window.entry.event_generate("<Key-x>")

        assert until(lambda: window.stream is None, meanwhile=look)
        assert len(seen) > 5
        assert "x" in window.entry.get()
        assert "\ndevice, " in text_of(window)


def test_desktop_stops(open_window: Callable[[Edge], "Window"]) -> None:
    """Stop ends the answer, keeps what has come, and the next question is answered."""
    with Edge() as edge:
        window = open_window(edge)
        say(window, "Write a long story about the sea.")
        assert until(lambda: len(text_of(window)) > 80, meanwhile=window.update)
        window.stop_button.invoke()
        assert until(lambda: window.stream is None, limit_s=5, meanwhile=window.update)
        assert text_of(window).rstrip().endswith("device, cancelled")
        say(window, "Name the capital of Italy.")
        assert until(lambda: window.stream is None, meanwhile=window.update)
        assert "Rome" in text_of(window)


def test_desktop_shows_what_was_withdrawn(open_window: Callable[[Edge], "Window"]) -> None:
    """Text that the cloud replaced stays, struck through, and the cloud is named as the source."""
    engine = FakeEngine("one two three four", error=EngineCrashed("The engine died"), fails_after=3)
    policy = Policy(privacy="allow")
    with Edge(engine=engine, cloud=FakeCloud("Five."), policy=policy, ledger=False) as edge:
        window = open_window(edge)
        say(window, "Count.")
        assert until(lambda: window.stream is None, meanwhile=window.update)
    start, end = window.log.tag_ranges("withdrawn")
    assert window.log.get(start, end) == "one two three "
    assert "\nwithdrawn: engine_error\nFive.\ncloud, stop" in text_of(window)


def test_closing_the_window_ends_the_answer(open_window: Callable[[Edge], "Window"]) -> None:
    """A window that is closed while an answer comes cancels it."""
    with Edge() as edge:
        window = open_window(edge)
        say(window, "Write a long story about the sea.")
        assert until(lambda: len(text_of(window)) > 80, meanwhile=window.update)
        stream = window.stream
        assert stream is not None
        window.destroy()
        assert stream.answer().finish_reason == "cancelled"
