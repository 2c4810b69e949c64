import gc
import logging
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeai.database import PATIENCE_S, Database
from edgeai.errors import BudgetExceeded, CloudTimeout, ConfigError, LedgerError
from edgeai.ledger import RESERVATION_S, WINDOW_S, Ledger, Window
from edgeai.migrations import MIGRATIONS
from edgeai.types import Answer, Message, Reason, Timing, Usage

NOW = 1_700_000_000.0
MEMORY = Path(":memory:")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "record" / "ledger.sqlite3") as opened:
        yield opened


def answer(text: str = "Au", *, cost_usd: float | None = None, cloud: bool = False) -> Answer:
    return Answer(
        text=text,
        source="cloud" if cloud else "device",
        model="gpt-x" if cloud else "smol",
        engine=None if cloud else "llamacpp",
        endpoint="https://cloud.test/v1" if cloud else None,
        reason=Reason.LOW_CONFIDENCE if cloud else Reason.CONFIDENT,
        explanation="why",
        score=-0.2,
        score_name="mean_logprob",
        usage=Usage(
            prompt_tokens=10, completion_tokens=5, cached_tokens=3, reasoning_tokens=2, cache_write_tokens=1
        ),
        timing=Timing(ttft_s=0.1, total_s=0.5, decode_tps=100.0),
        cost_usd=cost_usd,
        price_as_of="2026-11-01" if cloud else None,
        finish_reason="stop",
        disclosed_bytes=42 if cloud else 0,
    )


def test_a_query_comes_back_as_recorded(ledger: Ledger) -> None:
    """Every column of an answer survives the round trip, unknown stays None, and the time is UTC."""
    ledger.record(answer(cost_usd=0.01, cloud=True), task="sort", wasted_cost_usd=0.002)
    (row,) = ledger.rows()
    assert datetime.now(UTC) - datetime.fromisoformat(row.time) < timedelta(minutes=1)
    assert (row.source, row.model, row.engine, row.endpoint) == (
        "cloud",
        "gpt-x",
        None,
        "https://cloud.test/v1",
    )
    assert (row.reason, row.task, row.score, row.score_name) == (
        "low_confidence",
        "sort",
        -0.2,
        "mean_logprob",
    )
    assert (row.confidence, row.certified, row.energy_j) == (None, False, None)
    assert (row.prompt_tokens, row.completion_tokens, row.cached_tokens) == (10, 5, 3)
    assert (row.reasoning_tokens, row.cache_write_tokens, row.price_as_of) == (2, 1, "2026-11-01")
    assert (row.ttft_s, row.total_s, row.decode_tps) == (0.1, 0.5, 100.0)
    assert (row.cost_usd, row.wasted_cost_usd, row.finish_reason) == (0.01, 0.002, "stop")
    assert (row.disclosed_bytes, row.error) == (42, None)


def test_content_stays_out_by_default(ledger: Ledger) -> None:
    """Neither prompt nor answer is anywhere in the file unless content is kept."""
    ledger.record(answer("a-secret-answer"), prompt="a-secret-question")
    assert (ledger.rows()[0].prompt, ledger.rows()[0].answer) == (None, None)
    ledger.close()
    stored = b"".join(file.read_bytes() for file in ledger.path.parent.iterdir())
    assert b"mean_logprob" in stored
    assert b"a-secret" not in stored


def test_content_is_kept_on_request(tmp_path: Path) -> None:
    """With keep_content the texts come back: a string as it is, messages as JSON."""
    with Ledger.open(tmp_path / "l.sqlite3", keep_content=True) as ledger:
        ledger.record(answer("Gold"), prompt="Au?")
        ledger.record(answer("Silver"), prompt=[Message("system", "Be brief."), Message("user", "Ag?")])
        second, first = ledger.rows()
    assert (first.prompt, first.answer) == ("Au?", "Gold")
    assert second.answer == "Silver"
    assert second.prompt == '[{"role": "system", "text": "Be brief."}, {"role": "user", "text": "Ag?"}]'


def test_errors_are_rows_too(ledger: Ledger) -> None:
    """A query that failed has no source and names the class of its error."""
    ledger.record_error(CloudTimeout("no answer"), model="smol", endpoint="https://x.test", total_s=3.0)
    (row,) = ledger.rows()
    assert (row.source, row.error, row.total_s) == (None, "CloudTimeout", 3.0)


def test_rows_and_totals_can_be_narrowed(ledger: Ledger) -> None:
    """The filters by source, reason and time act on rows and on totals alike; the newest comes first."""
    ledger.record(answer("one"))
    ledger.record(answer("two", cost_usd=0.25, cloud=True), wasted_cost_usd=0.05)
    ledger.record(answer("three", cloud=True))
    ledger.record_error(CloudTimeout("no answer"), model="smol")
    assert [row.error for row in ledger.rows(2)] == ["CloudTimeout", None]
    assert len(ledger.rows(source="cloud")) == 2
    assert len(ledger.rows(reason="confident")) == 1
    assert ledger.rows(since=datetime.now(UTC) + timedelta(seconds=5)) == ()
    totals = ledger.totals()
    assert (totals.queries, totals.device, totals.cloud, totals.errors) == (4, 1, 2, 1)
    assert totals.cost_usd == pytest.approx(0.30)
    assert totals.unpriced == 1
    assert (totals.prompt_tokens, totals.completion_tokens, totals.disclosed_bytes) == (30, 15, 84)
    assert totals.reasons == {"confident": 1, "low_confidence": 2}
    assert ledger.totals(source="device").queries == 1
    assert ledger.totals(since=datetime.now(UTC) + timedelta(seconds=5)).cost_usd == 0


def test_migrations_are_applied_once(tmp_path: Path) -> None:
    """Opening again changes nothing, and finds what was written."""
    path = tmp_path / "deep" / "ledger.sqlite3"
    for _ in range(3):
        with Ledger.open(path) as ledger:
            ledger.record(answer())
    with Ledger.open(path) as ledger:
        assert len(ledger.rows()) == 3


@pytest.mark.parametrize(
    "damage", [b"this is no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_a_damaged_file_is_a_typed_error(tmp_path: Path, damage: bytes) -> None:
    """A file that is not a ledger is refused with the remedy, and is left as it is."""
    path = tmp_path / "ledger.sqlite3"
    path.write_bytes(damage)
    with pytest.raises(LedgerError, match=r"cannot be used.*move it away.*ledger=False"):
        Ledger.open(path)
    assert path.read_bytes() == damage


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """A path below a file is a LedgerError, not a raw OSError."""
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError):
        Ledger.open(tmp_path / "file" / "ledger.sqlite3")


def test_a_failing_record_loses_no_answer(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    """When the table is gone, recording logs one warning and raises nothing; reading raises LedgerError."""
    with sqlite3.connect(ledger.path) as other:
        other.execute("DROP TABLE queries")
    other.close()
    with caplog.at_level(logging.WARNING, "edgeai.ledger"):
        ledger.record(answer())
        ledger.record(answer())
    assert len(caplog.records) == 1
    with pytest.raises(LedgerError, match="no such table"):
        ledger.rows()


def test_many_threads_record(ledger: Ledger) -> None:
    """Eight threads write fifty rows each, and none is lost."""

    def work() -> None:
        for _ in range(50):
            ledger.record(answer())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.totals().queries == 400


class Dropped:
    """Something whose finalizer writes into the ledger, like a stream that was thrown away."""

    def __init__(self, ledger: Ledger, reservation: int) -> None:
        self._ledger, self._reservation = ledger, reservation
        self.itself = self  # only the garbage collector finds it

    def __del__(self) -> None:
        self._ledger.settle(self._reservation, 0.25)
        self._ledger.record(answer("dropped"))


def test_garbage_collected_inside_a_transaction_is_recorded(tmp_path: Path) -> None:
    """A finalizer that writes while its own thread has the ledger neither waits nor is lost."""
    database = Database.open(tmp_path / "l.sqlite3", MIGRATIONS)
    ledger = Ledger(database)
    Dropped(ledger, ledger.reserve(1.0, {}, NOW))
    began = time.monotonic()
    with database.transaction() as db:
        gc.collect()
        assert db.execute("SELECT count(*) FROM queries").fetchone() == (0,)
    with sqlite3.connect(ledger.path) as other:  # it was written without another call
        assert other.execute("SELECT count(*) FROM queries").fetchone() == (1,)
    other.close()
    assert time.monotonic() - began < PATIENCE_S
    assert (len(ledger.rows()), ledger.spent("hour", NOW)) == (1, 0.25)
    ledger.close()


def test_a_busy_file_blocks_briefly_and_loses_nothing(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    """While another process writes, recording gives up after a second; the rows are there afterwards."""
    reservation = ledger.reserve(1.0, {}, NOW)
    other = sqlite3.connect(ledger.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with caplog.at_level(logging.WARNING, "edgeai.ledger"):
        ledger.record(answer("one"))
        assert time.monotonic() - began < PATIENCE_S + 0.5
        ledger.settle(reservation, 0.5)
    other.execute("ROLLBACK")
    other.close()
    assert len(caplog.records) == 1
    assert (len(ledger.rows()), ledger.spent("hour", NOW)) == (1, 0.5)


def test_closing_writes_what_waits(ledger: Ledger) -> None:
    """A row that had to wait is in the file once the ledger is closed."""
    other = sqlite3.connect(ledger.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    ledger.record(answer())
    other.execute("ROLLBACK")
    other.close()
    ledger.close()
    with Ledger.open(ledger.path) as again:
        assert len(again.rows()) == 1


def test_what_computed_the_answer_is_recorded_in_an_older_file_too(tmp_path: Path) -> None:
    """A record that was made before devices were noted is gone on with."""
    path = tmp_path / "l.sqlite3"
    Database.open(path, MIGRATIONS[:-1]).close()
    with Ledger.open(path) as ledger:
        ledger.record(replace(answer(), device="cpu, prefill on qnn"))
        assert [row.device for row in ledger.rows()] == ["cpu, prefill on qnn"]


def test_a_row_waits_for_another_thread(tmp_path: Path) -> None:
    """A thread that holds a transaction for long delays a row, and writes it when it ends."""
    database = Database.open(tmp_path / "l.sqlite3", MIGRATIONS)
    ledger = Ledger(database)
    with database.transaction():
        thread = threading.Thread(target=ledger.record, args=(answer(),))
        thread.start()
        thread.join(PATIENCE_S + 5)
        assert not thread.is_alive()
    assert len(ledger.rows()) == 1
    ledger.close()


# money


def test_a_limit_holds_in_every_window(ledger: Ledger) -> None:
    """What does not fit is refused with the numbers, and the window rolls."""
    limits: dict[Window, float] = {"hour": 1.0, "day": 1.5}
    ledger.settle(ledger.reserve(0.9, limits, NOW), 0.8)
    with pytest.raises(BudgetExceeded, match=r"may cost \$0.300000, and \$0.200000 is left for the hour"):
        ledger.reserve(0.3, limits, NOW + 1)
    ledger.settle(ledger.reserve(0.7, limits, NOW + 3601), 0.7)
    with pytest.raises(BudgetExceeded, match=r"budget_usd\['day'\]"):
        ledger.reserve(0.1, limits, NOW + 2 * 3601)


def test_a_crash_does_not_hold_money_for_ever(ledger: Ledger) -> None:
    """A reservation nobody settles counts until it expires; a late settling still books the truth."""
    limits: dict[Window, float] = {"hour": 1.0}
    late = ledger.reserve(1.0, limits, NOW)
    with pytest.raises(BudgetExceeded):
        ledger.reserve(1.0, limits, NOW + RESERVATION_S - 1)
    ledger.release(ledger.reserve(1.0, limits, NOW + RESERVATION_S))
    ledger.settle(late, 0.4)
    assert ledger.spent("hour", NOW + RESERVATION_S) == 0.4


def test_money_that_was_sent_counts_until_it_is_settled(tmp_path: Path) -> None:
    """What a process had sent when it died stays spent for the whole window; a late settling corrects it."""
    limits: dict[Window, float] = {"day": 1.0}
    with Ledger.open(tmp_path / "l.sqlite3") as dies:
        reservation = dies.reserve(1.0, limits, NOW)
        dies.sent(reservation)
    with Ledger.open(tmp_path / "l.sqlite3") as ledger:
        with pytest.raises(BudgetExceeded):
            ledger.reserve(0.1, limits, NOW + 2 * RESERVATION_S)
        assert ledger.spent("day", NOW + WINDOW_S["day"]) == 0
        ledger.settle(reservation, 0.4)
        assert ledger.spent("day", NOW + 2 * RESERVATION_S) == 0.4


def test_only_a_reservation_can_be_sent(ledger: Ledger) -> None:
    """An unknown one is an error; one of which nothing was spent after all is given back."""
    with pytest.raises(LedgerError, match="no reservation"):
        ledger.sent(7)
    reservation = ledger.reserve(1.0, {}, NOW)
    ledger.sent(reservation)
    ledger.release(reservation)
    assert ledger.spent("hour", NOW) == 0


def test_a_released_reservation_cannot_be_settled(ledger: Ledger) -> None:
    """Settling what was released is an error; releasing what was settled keeps the money booked."""
    released, settled = ledger.reserve(0.1, {}, NOW), ledger.reserve(0.2, {}, NOW)
    ledger.release(released)
    with pytest.raises(LedgerError, match="no reservation"):
        ledger.settle(released, 0.1)
    ledger.settle(settled, 0.2)
    ledger.release(settled)
    assert ledger.spent("month", NOW) == 0.2


@pytest.mark.parametrize("amount", [-0.01, float("nan"), float("inf")])
def test_an_amount_is_a_sum_of_money(ledger: Ledger, amount: float) -> None:
    """A negative or undefined amount would open the limit; it is refused."""
    with pytest.raises(ConfigError):
        ledger.reserve(amount, {"hour": 1.0}, NOW)
    assert ledger.spent("hour", NOW) == 0


STEPS = st.lists(
    st.tuples(
        st.integers(0, 40),  # cents to reserve
        st.sampled_from(["settle", "release", "crash"]),
        st.floats(0, 1),  # the part of the reservation that was really spent
        st.sampled_from([0.0, 1.0, 900.0, 3600.0, 40_000.0, 90_000.0]),  # seconds until the next
    ),
    max_size=25,
)


@given(steps=STEPS, cents=st.fixed_dictionaries({"hour": st.integers(0, 60), "day": st.integers(0, 120)}))
def test_money_never_passes_a_limit_and_is_conserved(
    steps: list[tuple[int, str, float, float]], cents: dict[Window, int]
) -> None:
    """At every moment each window holds what was settled or is still reserved, and at most its limit."""
    limits: dict[Window, float] = {window: amount / 100 for window, amount in cents.items()}
    now = NOW
    booked: list[tuple[float, float, bool]] = []
    with Ledger.open(MEMORY) as ledger:
        for amount, end, part, pause in steps:
            usd = amount / 100
            try:
                reservation = ledger.reserve(usd, limits, now)
            except BudgetExceeded:
                assert any(_expected(booked, window, now) + usd > limits[window] - 1e-9 for window in limits)
            else:
                _finish(ledger, reservation, end, usd * part)
                booked += {"settle": [(now, usd * part, True)], "crash": [(now, usd, False)]}.get(end, [])
            for window, limit in limits.items():
                assert ledger.spent(window, now) == pytest.approx(_expected(booked, window, now))
                assert ledger.spent(window, now) <= limit + 1e-9
            now += pause


def _finish(ledger: Ledger, reservation: int, end: str, usd: float) -> None:
    if end == "settle":
        ledger.settle(reservation, usd)
    elif end == "release":
        ledger.release(reservation)


def _expected(booked: list[tuple[float, float, bool]], window: Window, now: float) -> float:
    """The same sum, from a plain list."""
    recent = (entry for entry in booked if entry[0] > now - WINDOW_S[window])
    return sum(usd for time, usd, settled in recent if settled or time > now - RESERVATION_S)


SPEND = """
import sys
from pathlib import Path
from edgeai.database import PATIENCE_S, Database
from edgeai.errors import BudgetExceeded, CloudTimeout
from edgeai.ledger import Ledger

allowed = 0
with Ledger.open(Path(sys.argv[1])) as ledger:
    for _ in range(60):
        ledger.record_error(CloudTimeout("no answer"), model="smol")
        try:
            ledger.settle(ledger.reserve(0.01, {"hour": 0.5}, 1_700_000_000.0), 0.01)
        except BudgetExceeded:
            continue
        allowed += 1
print(allowed)
"""


def test_two_processes_share_one_budget(tmp_path: Path) -> None:
    """Two processes that open and spend at once get 50 cents together, and lose no row."""
    path = tmp_path / "ledger.sqlite3"
    command = [sys.executable, "-c", SPEND, str(path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    allowed = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert sum(allowed) == 50
    with Ledger.open(path) as ledger:
        assert ledger.totals().queries == 120
        assert ledger.spent("hour", NOW) == pytest.approx(0.5)
