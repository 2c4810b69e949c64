"""The scheduler's bookkeeping, on paper: whatever happens beside it, a query is answered as if alone."""

import random
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal

import pytest

from edgeai.engines.admission import Admission
from edgeai.engines.batch import Filler
from edgeai.engines.context import FULL
from edgeai.engines.draft import Drafter
from edgeai.engines.generation import Generation
from edgeai.engines.jobs import Job
from edgeai.engines.query import Query
from edgeai.engines.sampling import Sampler, Scratch
from edgeai.engines.scheduler import Scheduler
from edgeai.engines.slots import Slot, Slots
from edgeai.engines.speculate import Costs
from edgeai.engines.text import TextAssembler
from edgeai.engines.turns import Turns
from edgeai.errors import Cancelled, EngineError
from edgeai.types import Sampling
from tests.engines.llamacpp.test_threads import wait_until
from tests.engines.paper import END, N_VOCAB, PaperContext

HEAD = [3, 1, 4, 1, 5, 9, 2, 6] * 6
Submit = Callable[..., Generation]


@contextmanager
def scheduling(
    context: PaperContext,
    *,
    parallel: int = 4,
    n_cells: int | None = None,
    speculates: bool = True,
    drafter: Drafter | None = None,
) -> Iterator[tuple[Submit, Scheduler]]:
    """A scheduler on paper, and how to ask it."""
    slots = Slots(context, parallel + 2, n_cells or context.n_cells)
    scheduler = Scheduler(
        context, slots, name="paper", parallel=parallel, speculates=speculates, drafter=drafter
    )
    scratch = Scratch(N_VOCAB)

    def submit(
        prompt: list[int],
        limit: int = 40,
        *,
        temperature: float = 0.0,
        seed: int = 0,
        priority: Literal["interactive", "background"] = "interactive",
    ) -> Generation:
        query = paper_query(prompt, limit, Sampler(Sampling(temperature=temperature, seed=seed), scratch))
        query.background = priority == "background"
        generation = Generation(partial(scheduler.wake, query))
        query.attach(generation)
        scheduler.submit(query)
        return generation

    try:
        yield submit, scheduler
    finally:
        scheduler.close()


def paper_query(prompt: list[int], limit: int = 40, sampler: Sampler | None = None) -> Query:
    """A query on paper."""
    return Query(
        prompt=list(prompt),
        limit=limit,
        capped=False,
        sampler=sampler or Sampler(Sampling(), Scratch(N_VOCAB)),
        text=TextAssembler(),
        piece=lambda token: b"%d " % token,
        eog=frozenset({END}),
    )


def keep(query: Query) -> Generation:
    """Its reader: without one a query is over."""
    generation = Generation()
    query.attach(generation)
    return generation


def read(generation: Generation) -> list[int]:
    """All token ids."""
    return [token.id for token in generation]


def prompts(chance: random.Random, n: int) -> list[list[int]]:
    """Some with a common head, some without."""
    tails = [[chance.randrange(1, N_VOCAB) for _ in range(chance.randint(1, 20))] for _ in range(n)]
    return [HEAD[: chance.choice([0, 20, 40, 48])] + tail for tail in tails]


def alone(asked: list[list[int]], **options: float) -> list[list[int]]:
    """What each gets in a cache of its own, token by token."""
    answers = []
    for prompt in asked:
        with scheduling(PaperContext(200), parallel=1, speculates=False) as (submit, _):
            answers.append(read(submit(prompt, **options)))
    return answers


@pytest.mark.parametrize("n_cells", [110, 160, 1000])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_company_changes_no_answer(n_cells: int, temperature: float) -> None:
    """With shared heads, drafts, priorities, cancels, and cells that run out: each answer is as alone."""
    chance = random.Random(n_cells)
    asked = prompts(chance, 40)
    expected = alone(asked, temperature=temperature)
    context = PaperContext(n_cells)
    with scheduling(context) as (submit, _):
        generations = [
            submit(prompt, temperature=temperature, priority=chance.choice(["interactive", "background"]))
            for prompt in asked
        ]
        cancelled = set(chance.sample(range(40), 8))
        for number in cancelled:
            time.sleep(0.002)
            generations[number].cancel()
        found = [None if n in cancelled else read(g) for n, g in enumerate(generations)]
    assert all(answer is None or answer == expected[n] for n, answer in enumerate(found))
    assert context.most_cells <= n_cells


def test_drafts_save_steps_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where guesses are right and rows cost nothing, there are fewer decodes, for the same answer."""
    monkeypatch.setattr(Costs, "of", lambda self, rows: 1.0)
    monkeypatch.setattr(Costs, "note", lambda self, rows, silent, seconds, guessed=False: True)
    asked = [[*HEAD, 7, 8]] * 6
    expected = alone(asked, limit=60)
    counts = {}
    for speculates in (False, True):
        context = PaperContext(500)
        with scheduling(context, speculates=speculates) as (submit, _):
            found = [read(submit(prompt, 60)) for prompt in asked]
        assert found == expected
        counts[speculates] = len(context.sizes)
    assert counts[True] < 0.8 * counts[False]


def test_a_head_that_is_being_computed_is_not_computed_again() -> None:
    """Eight questions about one document at once: it is read once."""
    context = PaperContext(4000)
    with scheduling(context, parallel=8, speculates=False) as (submit, _):
        found = [submit(HEAD * 4 + [tail, tail], 2) for tail in range(1, 9)]
        assert all(map(read, found))
    assert sum(context.sizes) < 4 * len(HEAD) + 8 * (2 + 32)


def test_a_full_cache_is_not_the_user_s_problem() -> None:
    """When the native library says that no cell is left, somebody waits, and all are answered as alone."""
    asked = prompts(random.Random(5), 6)
    expected = alone(asked)
    context = PaperContext(1000, step_s=0.001)
    with scheduling(context) as (submit, _):
        generations = [submit(prompt) for prompt in asked]
        next(generations[1])
        context.fails = [FULL, FULL]
        answers = [read(generation) for generation in generations]
    assert not context.fails
    assert [answer[-len(found) :] for answer, found in zip(expected, answers, strict=True)] == answers


def test_a_failed_decode_fails_its_queries_and_no_others() -> None:
    """The error is typed, and what comes later is answered as if nothing had been."""
    context = PaperContext(500)
    with scheduling(context) as (submit, _):
        expected = read(submit(HEAD))
        context.fails = [-3]
        with pytest.raises(EngineError, match="-3"):
            read(submit(HEAD[:-1]))
        assert read(submit(HEAD)) == expected


def test_one_that_never_fits_fails_with_a_type() -> None:
    """A cache that is full although nobody is there is an error, not an endless loop."""
    context = PaperContext(500)
    with scheduling(context) as (submit, _):
        context.fails = [FULL] * 3
        with pytest.raises(EngineError):
            read(submit(HEAD))
        context.fails.clear()
        assert read(submit(HEAD))


def test_the_background_makes_way() -> None:
    """While all places are taken in the background, a person's query runs at once, and nearly alone."""
    context = PaperContext(4000, step_s=0.002)
    with scheduling(context, speculates=False) as (submit, scheduler):
        background = [submit(HEAD[: 9 + i], 64, priority="background") for i in range(6)]
        for generation in background[:2]:
            next(generation)
        del context.sizes[:]
        assert read(submit([5, 6], 20))
        assert sorted(context.sizes)[len(context.sizes) // 2] <= 2
        assert sum(query.background for query in scheduler._admission.live) >= 3
        for generation in background:
            assert read(generation)


def test_prompts_share_the_room() -> None:
    """A short prompt does not wait for a long one that came first."""
    context = PaperContext(4000, step_s=0.002)
    with scheduling(context, speculates=False) as (submit, _):
        long = submit([chance % 31 + 1 for chance in range(400)], 4)
        short = submit([9, 9, 9, 8, 8, 8], 1)
        read(short)
        assert not long._items
        assert read(long)


def job(
    scheduler: Scheduler, prompt: list[int], n_steps: int, done: list[str], name: str, *, background: bool
) -> Job:
    """Work of ``n_steps`` batches, which says when it begins and ends."""

    def steps(slot: Slot) -> Generator[None]:
        done.append(f"{name} begins")
        for _ in range(n_steps):
            time.sleep(0.002)
            yield
        done.append(f"{name} ends")

    work = Job(prompt=prompt, need=len(prompt), steps=steps, background=background)
    scheduler.submit(work)
    return work


def test_jobs_in_the_background_stand_still_for_a_person() -> None:
    """In all places, they take none from who comes later, and go on where they were."""
    done: list[str] = []
    with scheduling(PaperContext(1000, step_s=0.001), parallel=2, speculates=False) as (submit, scheduler):
        slow = [job(scheduler, [1, n], 60, done, f"slow {n}", background=True) for n in (1, 2)]
        wait_until(lambda: len(done) == 2)
        quick = job(scheduler, [1, 3], 3, done, "quick", background=False)
        assert len(read(submit([5, 6, 7], 12))) > 1
        quick.done.result(10)
        assert "slow 1 ends" not in done
        for work in slow:
            work.done.result(10)
    assert done[2:4] == ["quick begins", "quick ends"]
    assert sorted(done[4:]) == ["slow 1 ends", "slow 2 ends"]


def test_a_job_in_the_background_makes_way_where_there_is_no_room() -> None:
    """It begins again when there is, and its work is whole."""
    done: list[str] = []
    with scheduling(PaperContext(60), parallel=1, speculates=False) as (submit, scheduler):
        slow = job(scheduler, HEAD[:40], 40, done, "slow", background=True)
        wait_until(lambda: done)
        assert read(submit(HEAD[20:], 8))  # for which 20 cells are not enough
        assert "slow ends" not in done
        slow.done.result(10)
    assert done == ["slow begins", "slow begins", "slow ends"]


def test_who_left_while_the_batch_was_filled_is_not_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A query that has its cell, and then leaves for a later one, has no slot to be decoded from."""
    context = PaperContext(1000)
    slots = Slots(context, 4, 1000)
    admission = Admission(slots, 2, 10, Turns(lambda adapter: None))
    first, second = (paper_query([1, 2, 3]) for _ in range(2))
    kept = [keep(query) for query in (first, second)]
    admission.add(first)
    admission.add(second)
    admission.admit()
    for query in (first, second):
        assert query.slot is not None
        query.slot.n_past = 2
    context.add([1, 2], 0, 0)
    context.add([1, 2], 0, 1)
    context.decode()

    def hold(query: Query, size: int) -> bool:
        if query is second:
            admission._leave(first)
        return True

    monkeypatch.setattr(admission, "hold", hold)
    first.hidden = True  # of somebody who is not there, nothing is computed
    step = Filler(context, slots, admission, Costs(), None).fill()
    assert [asked.query for asked in step.asked] == [second]
    assert [query for query, _ in step.fed] == [second]
    assert not step.states
    assert len(kept) == 2


def test_a_cancelled_query_leaves_its_place_at_once() -> None:
    """The next one begins, while others go on."""
    with scheduling(PaperContext(4000, step_s=0.01), parallel=1) as (submit, _):
        first, second = submit(HEAD, 60), submit([5, 6], 2)
        next(first)
        began = time.monotonic()
        first.cancel()
        assert read(second)
        assert time.monotonic() - began < 0.2
        with pytest.raises(Cancelled):
            read(first)
