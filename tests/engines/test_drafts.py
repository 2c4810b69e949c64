"""Drafts on paper: what is guessed changes no answer, and what does not pay is left alone."""

import random
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeai.engines.account import Account
from edgeai.engines.context import FULL
from edgeai.engines.draft import Drafter, Trust, likeliest
from edgeai.engines.speculate import Costs, Lookup, Outcome, Speculation
from tests.engines.paper import PaperContext
from tests.engines.test_scheduler import HEAD, alone, prompts, read, scheduling


class WrongContext(PaperContext):
    """Its likeliest token is always the next one's number: never what the large model says, but by chance."""

    def logits(self, row: int) -> NDArray[np.float32]:
        """The large model's, turned round by one."""
        return np.roll(super().logits(row), 1)


class FullNowAndThen(PaperContext):
    """It has no cell left at every third decode."""

    def decode(self) -> int:
        """As of the paper, but for that."""
        if len(self.sizes) % 3 == 2:
            self.fails = [FULL]
        return super().decode()


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guesses are made whatever they cost."""
    monkeypatch.setattr("edgeai.engines.draft.MARGIN", 0.0)
    monkeypatch.setattr(Drafter, "_promises", lambda self, sequences: sequences > 0)
    monkeypatch.setattr(Account, "is_open", True)


@pytest.mark.parametrize("kind", [PaperContext, WrongContext])
@pytest.mark.parametrize("n_cells", [110, 1000])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.usefixtures("always")
def test_a_draft_model_changes_no_answer(kind: type[PaperContext], n_cells: int, temperature: float) -> None:
    """Right or wrong, for one query or many, in too few cells, greedy or sampled."""
    asked = prompts(random.Random(3), 12)
    expected = alone(asked, temperature=temperature)
    small = kind(n_cells)
    drafter = Drafter(small, n_seq=4, n_cells=n_cells)
    with scheduling(PaperContext(1000), drafter=drafter) as (submit, _):
        found = [submit(prompt, temperature=temperature) for prompt in asked]
        assert [read(generation) for generation in found] == expected
    assert len(small.sizes) > 20


@pytest.mark.usefixtures("always")
def test_a_right_draft_saves_steps() -> None:
    """The large model checks several of its tokens at once."""
    large = PaperContext(1000)
    drafter = Drafter(PaperContext(1000), n_seq=4, n_cells=1000)
    with scheduling(large, drafter=drafter) as (submit, _):
        answer = read(submit([*HEAD, 7, 8], 60))
    assert len(large.sizes) < 0.6 * len(answer)
    assert drafter._trust.mean > 0.9


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(("code", "goes_on"), [(FULL, True), (-3, False)])
def test_a_draft_model_that_fails_is_not_the_user_s_problem(
    code: int, *, goes_on: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Without cells it begins anew; else it is not used any more, which is logged."""
    asked = prompts(random.Random(4), 3)
    expected = alone(asked)
    small = PaperContext(1000)
    small.fails = [code]
    with scheduling(PaperContext(1000), drafter=Drafter(small, n_seq=4, n_cells=1000)) as (submit, _):
        assert [read(submit(prompt)) for prompt in asked] == expected
    assert (len(small.sizes) > 1) == goes_on
    assert bool(caplog.records) != goes_on


@pytest.mark.usefixtures("always")
def test_cells_that_run_out_while_prompts_are_read() -> None:
    """What was ready is forgotten with the rest; the thread goes on."""
    asked = [[*HEAD * 3, n, n] for n in range(1, 5)]
    expected = alone(asked)
    small = FullNowAndThen(1000)
    with scheduling(PaperContext(1000), drafter=Drafter(small, n_seq=4, n_cells=1000)) as (submit, _):
        assert [read(generation) for generation in list(map(submit, asked))] == expected
    assert len(small.sizes) > 10


def test_likeliest() -> None:
    """The token and its probability."""
    token, sure = likeliest(np.log(np.array([0.2, 0.5, 0.3], np.float32)))
    assert (token, round(sure, 4)) == (1, 0.5)


def test_trust_is_learned() -> None:
    """At first a draft model is believed; then what was seen counts."""
    trust = Trust()
    assert trust.of(0.95) > 0.9 > 0.1 > trust.of(0.02)
    for _ in range(100):
        trust.note(0.95, right=False)
    assert trust.of(0.95) < 0.1
    assert trust.mean < 0.1


# what it costs, with seconds that are told and not measured


def replay(tokens: list[int], seconds: Callable[[int], float], *, n_prompt: int = 30) -> tuple[float, int]:
    """The seconds of the tokens after the prompt with drafts ÷ without, and how many drafts there were."""
    speculation, lookup = Speculation(Costs()), Lookup(n_prompt)
    at, spent, drafts = n_prompt, 0.0, 0
    last = 1
    while at < len(tokens):
        draft = speculation.draft(
            lookup, tokens[:at], sequences=1, rows=1, room=min(63, len(tokens) - at - 1)
        )
        right = next((i for i, t in enumerate(draft) if t != tokens[at + i]), len(draft))
        rows = 1 + len(draft)
        took = seconds(rows) + (0.1 * seconds(1) if rows != last else 0.0)  # it is planned anew
        speculation.note(Outcome(1, rows, 0, right + 1, took))
        last, at, spent, drafts = rows, at + right + 1, spent + took, drafts + bool(draft)
    return spent / (seconds(1) * (len(tokens) - n_prompt)), drafts


def echoes(chance: random.Random, n: int, *, right: float) -> list[int]:
    """A text that says again what it said, but for some tokens."""
    tokens = [chance.randrange(50) for _ in range(30)]
    while len(tokens) < n:
        tokens.append(tokens[-30] if chance.random() < right else chance.randrange(50))
    return tokens


@pytest.mark.parametrize("right", [0.0, 0.5, 0.8, 0.95])
@pytest.mark.parametrize(
    "row_s", [0.1, 0.5, 0.9, 1.0, 2.0], ids=lambda row_s: f"a row more costs {row_s} of a step"
)
def test_lookups_never_cost_much(right: float, row_s: float) -> None:
    """Whatever rows cost and however often guesses are right: at most 3 % of plain decoding's time."""
    for seed in range(5):
        tokens = echoes(random.Random(seed), 700, right=right)
        took, _ = replay(tokens, lambda rows: 0.01 * (1 + row_s * (rows - 1)))
        assert took <= 1.03


def test_lookups_pay_where_rows_are_cheap() -> None:
    """And are left alone where they cost as much as steps."""
    tokens = echoes(random.Random(1), 700, right=0.95)
    took, _ = replay(tokens, lambda rows: 0.01 * (1 + 0.1 * (rows - 1)))
    assert took < 0.5
    _, drafts = replay(tokens, lambda rows: 0.01 * rows)
    assert drafts < 20


def test_an_account_is_open_as_long_as_it_may_lose() -> None:
    """A loss closes it until a share of the time that passes makes up for it; gains are not kept for ever."""
    account = Account()
    account.settle(-0.010, 0.01)
    assert not account.is_open
    for _ in range(60):
        account.earn(0.01)
    assert account.is_open
    account.settle(100.0, 0.01)
    account.settle(-0.2, 0.01)
    assert not account.is_open
