import pytest

from edgeai.devices.plan import plan
from edgeai.devices.probe import usable_cores
from edgeai.errors import ConfigError


@pytest.mark.parametrize(
    ("asked", "trained", "planned"), [(None, 2048, 2048), (None, 131072, 4096), (512, 2048, 512)]
)
def test_the_context(asked: int | None, trained: int, planned: int) -> None:
    """What was asked for; else what the model was trained for, up to 4096 tokens."""
    assert plan(asked, trained).n_ctx == planned


@pytest.mark.parametrize("asked", [0, -1, 2049])
def test_a_context_the_model_cannot_have(asked: int) -> None:
    """A context beyond training is refused with the number that is possible."""
    with pytest.raises(ConfigError, match="at most 2048"):
        plan(asked, 2048)


def test_threads_are_the_usable_cores() -> None:
    """As many threads as cores this process may keep busy, and silent unless asked."""
    assert plan(None, 2048).n_threads == usable_cores()
    assert plan(None, 2048).follow_load
    assert not plan(None, 2048).verbose


def test_threads_that_somebody_fixed() -> None:
    """As many as asked for, whatever the load."""
    planned = plan(None, 2048, threads=3)
    assert (planned.n_threads, planned.follow_load) == (3, False)


@pytest.mark.parametrize("threads", [0, -1, 513, 1.5, True])
def test_threads_that_cannot_be(threads: int) -> None:
    """Refused with what is possible."""
    with pytest.raises(ConfigError, match="from 1 to 512"):
        plan(None, 2048, threads=threads)
