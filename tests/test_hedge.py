"""One query in twenty may ask two at once."""

from hypothesis import given
from hypothesis import strategies as st

from edgeai import Edge, Policy, Reason
from edgeai.hedge import EVERY, Hedges
from edgeai.testing import FakeCloud, FakeEngine


@given(st.lists(st.booleans(), max_size=400))
def test_at_most_one_in_twenty(needed: list[bool]) -> None:
    """Whichever queries turn out to be slow; an allowance that was not needed is kept, never doubled."""
    hedges, used = Hedges(), 0
    for slow in needed:
        if hedges.take():
            used += slow
            if not slow:
                hedges.give_back()
    assert used <= len(needed) / EVERY


class Moody(FakeEngine):
    """An engine that gets slow when told."""

    def slow_down(self) -> None:
        self._delay_s = 0.5


def test_a_slow_device_is_overtaken_once() -> None:
    """After twenty ordinary answers an unusually slow one becomes the cloud's, and the next one waits."""
    engine = Moody("one two three four", delay_s=0.001)
    policy = Policy(privacy="allow", hedge=True)
    with Edge(engine=engine, cloud=FakeCloud("five"), policy=policy, ledger=False) as edge:
        assert {edge.ask("Count.", max_tokens=8).source for _ in range(EVERY)} == {"device"}
        engine.slow_down()
        hedged = edge.ask("Count.", max_tokens=8)
        assert (hedged.source, hedged.reason, hedged.text) == ("cloud", Reason.HEDGE, "five")
        assert edge.ask("Count.", max_tokens=8).source == "device"
