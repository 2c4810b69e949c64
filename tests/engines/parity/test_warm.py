"""Warm starts: what was computed once is not computed again after a restart, on both engines."""

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeai.engines import DevicePlan
from edgeai.engines.local import LocalEngine
from edgeai.errors import ModelUnsupported
from edgeai.models import prefixes
from edgeai.types import Message, Request
from tests.engines.parity.conftest import OPEN, Paths

HEAD = "You are a kiosk guide. " + "The north gate opens at seven and closes at noon. " * 8
GIB = 1 << 30

Open = Callable[..., LocalEngine]


@pytest.fixture(params=list(OPEN))
def reopen(request: pytest.FixtureRequest, paths: Paths) -> Open:
    """Open an engine anew, as after a restart."""

    def opened(weights: str = "abc") -> LocalEngine:
        planned = DevicePlan(n_ctx=512, n_threads=1, weights=weights)
        return OPEN[request.param](getattr(paths, request.param), planned, name="smollm2")

    return opened


def system(text: str = HEAD) -> Request:
    return Request(messages=(Message("system", text),))


def question() -> Request:
    return Request(messages=(Message("system", HEAD), Message("user", "When?")), max_tokens=8)


def answer(engine: LocalEngine) -> tuple[list[int], int]:
    """Token ids, and how much of the prompt needed no prefill."""
    generation = engine.stream(question())
    ids = [token.id for token in generation]
    assert generation.finished is not None
    return ids, generation.finished.n_cached


def the_file() -> Path:
    (found,) = prefixes.kept()
    return found.path


def test_a_prefix_outlives_the_engine(reopen: Open) -> None:
    """A later engine answers the same from the kept prefix as from a prefill; nothing is kept unasked."""
    first = reopen()
    cold, n_cached = answer(first)
    assert (n_cached, list(prefixes.kept())) == (0, [])
    warmed = first.warm(system(), most_bytes=GIB)
    first.close()
    assert warmed.tokens > 80
    assert warmed.kept_bytes == the_file().stat().st_size
    assert stat.S_IMODE(the_file().stat().st_mode) == 0o600

    second = reopen()
    assert answer(second) == (cold, warmed.tokens)
    again = second.warm(system(), most_bytes=GIB)
    assert (again.cached_tokens, again.kept_bytes) == (warmed.tokens - 1, 0)
    second.close()


def test_a_damaged_file_is_dropped_and_made_again(reopen: Open) -> None:
    """A single changed byte: the answer is computed, the file is gone, and warming restores it."""
    first = reopen()
    cold, _ = answer(first)
    first.warm(system(), most_bytes=GIB)
    first.close()
    path = the_file()
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)

    second = reopen()
    assert answer(second)[0] == cold
    assert not path.exists()
    assert second.warm(system(), most_bytes=GIB).kept_bytes == len(content)
    second.close()


def test_other_weights_see_nothing_of_it(reopen: Open) -> None:
    """A prefix belongs to the weights that computed it, and an engine that knows no weights keeps nothing."""
    first = reopen()
    first.warm(system(), most_bytes=GIB)
    first.close()
    other = reopen(weights="xyz")
    assert answer(other)[1] == 0
    other.close()
    nameless = reopen(weights="")
    with pytest.raises(ModelUnsupported):
        nameless.warm(system(), most_bytes=GIB)
    nameless.close()
