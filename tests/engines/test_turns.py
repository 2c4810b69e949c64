"""One adapter at a time, and nobody starves."""

from edgeai.engines.turns import Turns


def test_work_of_another_adapter_waits_until_nothing_runs() -> None:
    """The context changes its adapter when what ran has ended, and only then."""
    carried: list[str | None] = []
    turns = Turns(carried.append)
    turns.look()
    assert turns.begin(None, is_free=lambda: False)
    assert not turns.begin("a", is_free=lambda: False)
    assert turns.begin("a", is_free=lambda: True)
    assert carried == ["a"]


def test_overtaking_is_bounded() -> None:
    """However much work of the adapter in turn comes, what waits for another has its turn at last."""
    turns = Turns(lambda adapter: None)
    began = 0
    for _ in range(1000):
        turns.look()
        assert not turns.begin("a", is_free=lambda: False)
        began += turns.begin(None, is_free=lambda: False)
    assert 0 < began < 20


def test_work_that_came_first_is_not_an_overtaker() -> None:
    """Before anybody waits for another adapter, work of this one just begins."""
    turns = Turns(lambda adapter: None)
    for _ in range(100):
        turns.look()
        assert turns.begin(None, is_free=lambda: False)
        turns.begin("a", is_free=lambda: False)
