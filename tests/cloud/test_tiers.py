"""Several clouds: which is asked, what it costs, and what goes on record."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgeai import Edge, Policy, Price
from edgeai.cloud import CloudEnd, CloudText, Piece, open_clouds
from edgeai.cloud.tiers import Tiers, by_price, tiers_of
from edgeai.errors import (
    BothFailed,
    CloudError,
    CloudProtocol,
    CloudRefused,
    CloudUnavailable,
    ConfigError,
    EngineCrashed,
    PolicyError,
)
from edgeai.ledger import Ledger
from edgeai.testing import FakeCloud, FakeEngine
from edgeai.types import Answer, Delta, Reason, Released, Replaced, Usage

CLOUD = Policy(privacy="allow", prefer="cloud")
CHEAP = Price(prompt_usd=1.0, completion_usd=2.0, as_of="2026-01-01")
DEAR = Price(prompt_usd=10.0, completion_usd=20.0, as_of="2026-02-02")


class Named(FakeCloud):
    """A fake cloud with a name and an address of its own."""

    def __init__(self, name: str, text: str = "", price: Price | None = CHEAP, **options: Any) -> None:  # noqa: ANN401
        super().__init__(text or f"Said by {name}.", price=price, **options)
        self.model, self.endpoint = name, f"https://{name}.invalid/v1"


def ask(clouds: Sequence[FakeCloud], policy: Policy = CLOUD, ledger: Path | None = None) -> Answer:
    book = ledger or False
    with Edge(engine=FakeEngine("From the device."), cloud=clouds, policy=policy, ledger=book) as edge:
        return edge.ask("What is it?", max_tokens=8)


def test_the_first_is_enough() -> None:
    """While the cheap one answers, nobody else is asked."""
    cheap, dear = Named("cheap"), Named("dear")
    answer = ask([cheap, dear])
    assert (answer.text, answer.model, answer.endpoint) == (
        "Said by cheap.",
        "cheap",
        "https://cheap.invalid/v1",
    )
    assert dear.received == []


@pytest.mark.parametrize("error", [CloudUnavailable("down"), CloudRefused("no"), CloudProtocol("odd")])
def test_the_next_on_failure(error: CloudError) -> None:
    """When one fails or refuses, the next is asked, and the answer says who gave it, and at whose price."""
    cheap, dear = Named("cheap", error=error), Named("dear", price=DEAR)
    answer = ask([cheap, dear])
    assert (answer.text, answer.model, answer.endpoint) == (
        "Said by dear.",
        "dear",
        "https://dear.invalid/v1",
    )
    assert (answer.source, answer.reason, answer.price_as_of) == ("cloud", Reason.POLICY, "2026-02-02")
    assert answer.cost_usd == DEAR.cost(answer.usage)
    assert answer.disclosed_bytes == 2 * len(dear.encode(dear.received[0]))


def test_all_fail() -> None:
    """When the last has failed, the device's answer stands, with what the last one said."""
    clouds = [
        Named("a", error=CloudUnavailable("a is down")),
        Named("b", error=CloudUnavailable("b is down")),
    ]
    answer = ask(clouds)
    assert (answer.text, answer.source, answer.reason) == ("From the device.", "device", Reason.CLOUD_FAILED)
    assert "b is down" in answer.explanation


def test_text_that_was_shown_is_not_replaced_by_another_cloud() -> None:
    """A cloud that fails after its text was shown is replaced by the device alone."""
    breaks, other = (
        Named("breaks", "one two three", error=CloudUnavailable("gone"), fails_after=2),
        Named("other"),
    )
    with Edge(engine=FakeEngine("Device."), cloud=[breaks, other], policy=CLOUD, ledger=False) as edge:
        events = list(edge.stream("What?"))
    assert other.received == []
    assert [event.source for event in events if isinstance(event, Delta)] == ["cloud", "cloud", "device"]
    assert sum(isinstance(event, Replaced) for event in events) == 1


def test_an_answer_that_does_not_fit_is_refused() -> None:
    """Where an answer must be one of the choices, or JSON that fits, one that is not is a reason to climb."""
    chatty, strict = Named("chatty", "I think it is billing, perhaps."), Named("strict", "shipping")
    with Edge(engine=FakeEngine("billing"), cloud=[chatty, strict], policy=CLOUD, ledger=False) as edge:
        choice = edge.choose("Where is it?", ["billing", "shipping"])
        assert (choice.label, choice.answer.model) == ("shipping", "strict")
    prose, json = Named("prose", "Ana, I guess"), Named("json", '{"name": "Ana"}')
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    with Edge(engine=FakeEngine("{}"), cloud=[prose, json], policy=CLOUD, ledger=False) as edge:
        found = edge.extract("Call Ana", schema)
        assert (found.value, found.answer.model) == ({"name": "Ana"}, "json")


def test_low_confidence_climbs_from_the_cheapest() -> None:
    """An escalation asks the cheap one first, too."""
    cheap, dear = Named("cheap", error=CloudUnavailable("down")), Named("dear")
    engine = FakeEngine("Not sure.", probability=0.2)
    policy = Policy(privacy="allow", min_score=0.5)
    with Edge(engine=engine, cloud=[cheap, dear], policy=policy, ledger=False) as edge:
        answer = edge.ask("What?")
    assert (answer.text, answer.reason) == ("Said by dear.", Reason.LOW_CONFIDENCE)


def test_money_of_each_send(tmp_path: Path) -> None:
    """Each send is reserved and settled for its own price; what a failed one may have cost is on record."""
    budget = Policy(privacy="allow", prefer="cloud", budget_usd={"day": 1.0})
    cheap, dear = Named("cheap", error=CloudUnavailable("down")), Named("dear", price=DEAR)
    path = tmp_path / "ledger.sqlite3"
    answer = ask([cheap, dear], budget, path)
    n_bytes = len(cheap.encode(cheap.received[0]))
    lost = CHEAP.worst(n_bytes, 8)
    with Ledger.open(path) as ledger:
        assert ledger.spent("day") == pytest.approx(lost + (answer.cost_usd or 0.0))
        [row] = ledger.rows()
    assert (row.endpoint, row.model, row.price_as_of) == (answer.endpoint, "dear", "2026-02-02")
    assert row.cost_usd == answer.cost_usd
    assert row.wasted_cost_usd == pytest.approx(lost)


def test_what_was_not_sent_costs_nothing(tmp_path: Path) -> None:
    """A cloud that could not be reached gives its money back."""
    error = CloudUnavailable("no route")
    error.sends = 0
    budget = Policy(privacy="allow", prefer="cloud", budget_usd={"day": 1.0})
    path = tmp_path / "ledger.sqlite3"
    answer = ask([Named("cheap", error=error), Named("dear", price=DEAR)], budget, path)
    with Ledger.open(path) as ledger:
        assert ledger.spent("day") == pytest.approx(answer.cost_usd)
        assert ledger.rows()[0].wasted_cost_usd == 0
    assert answer.disclosed_bytes == ledger_bytes(answer)


def ledger_bytes(answer: Answer) -> int:
    """The body of one fake cloud, for the question that `ask` asks."""
    return len(b'[["user", "What is it?"]]')


def test_the_budget_stops_the_climb(tmp_path: Path) -> None:
    """Money for the cheap one is none for the dear one: the query stays, and nothing is sent there."""
    one_cheap = CHEAP.worst(ledger_bytes(ask([Named("x")])), 8)
    budget = Policy(privacy="allow", prefer="cloud", budget_usd={"day": one_cheap * 2})
    dear = Named("dear", price=DEAR)
    answer = ask([Named("cheap", error=CloudUnavailable("down")), dear], budget, tmp_path / "l.sqlite3")
    assert (answer.source, answer.reason) == ("device", Reason.BUDGET)
    assert dear.received == []


def test_a_free_cloud_behind_a_dear_one(tmp_path: Path) -> None:
    """When there is no money for one cloud, a cheaper one behind it is asked all the same."""
    budget = Policy(privacy="allow", prefer="cloud", budget_usd={"query": 1e-9})
    dear, free = Named("dear", price=DEAR), Named("free", price=Price(prompt_usd=0, completion_usd=0))
    answer = ask([dear, free], budget, tmp_path / "l.sqlite3")
    assert (answer.model, answer.cost_usd) == ("free", 0)
    assert dear.received == []


def test_a_budget_needs_every_price() -> None:
    """One cloud without a price is enough to refuse a budget."""
    budget = Policy(privacy="allow", budget_usd={"query": 1.0})
    with pytest.raises(PolicyError, match="price"):
        Edge(engine=FakeEngine(), cloud=[Named("a"), Named("b", price=None)], policy=budget, ledger=False)


def test_local_asks_nobody() -> None:
    """However many clouds there are, privacy="local" asks none."""
    clouds = [Named("a"), Named("b")]
    assert ask(clouds, Policy(prefer="cloud")).reason is Reason.PRIVATE
    assert [cloud.received for cloud in clouds] == [[], []]


def test_both_fail() -> None:
    """Device and all clouds fail: one error with the device's and the last cloud's cause."""
    clouds = [
        Named("a", error=CloudUnavailable("a is down")),
        Named("b", error=CloudUnavailable("b is down")),
    ]
    engine = FakeEngine(error=EngineCrashed("broken"))
    with (
        Edge(engine=engine, cloud=clouds, policy=CLOUD, ledger=False) as edge,
        pytest.raises(BothFailed) as caught,
    ):
        edge.ask("What?")
    assert [str(error) for error in caught.value.exceptions] == ["broken.", "b is down."]


def test_order_by_price() -> None:
    """Clouds can be ordered by what they cost; all prices must be known for it."""
    cheap, dear = Named("cheap"), Named("dear", price=DEAR)
    assert by_price([dear, cheap]).clouds == (cheap, dear)
    with pytest.raises(ConfigError, match="price of free"):
        by_price([cheap, Named("free", price=None)])


def test_spellings() -> None:
    """A list of names is a list of clouds; what is none is refused."""
    several = open_clouds(["ollama:qwen3", "openai:gpt-4o-mini"])
    assert [cloud.model for cloud in tiers_of(several)] == ["qwen3", "gpt-4o-mini"]
    assert tiers_of(open_clouds(None)) == ()
    for wrong in ([], 7, [7], [Tiers((Named("a"),))]):
        with pytest.raises(ConfigError):
            open_clouds(wrong)  # type: ignore[arg-type]  # that is the point


def test_the_limit_of_a_query() -> None:
    """A query whose worst case is above its own limit is refused before anything is sent."""
    cloud = Named("dear", price=DEAR)
    answer = ask([cloud], Policy(privacy="allow", prefer="cloud", budget_usd={"query": 1e-9}))
    assert answer.reason is Reason.BUDGET
    assert cloud.received == []


class Theirs:
    """A cloud that somebody else wrote after the protocol: no more than it asks for."""

    model, endpoint, price = "theirs", "https://theirs.invalid/v1", Price(prompt_usd=1.0, completion_usd=2.0)

    def encode(self, released: Released) -> bytes:
        return b"{}"

    async def stream(self, released: Released) -> AsyncIterator[Piece]:
        yield CloudText("Theirs.")
        yield CloudEnd(finish_reason="stop", usage=Usage(prompt_tokens=1, completion_tokens=1))


def test_a_cloud_of_somebody_else(tmp_path: Path) -> None:
    """It works alone and as a tier, within a budget, and counts as sent once."""
    policy = Policy(privacy="allow", prefer="cloud", budget_usd={"day": 1.0})
    for cloud in (Theirs(), [Theirs()]):
        with Edge(engine=FakeEngine(), cloud=cloud, policy=policy, ledger=tmp_path / "l") as edge:
            answer = edge.ask("q")
        assert (answer.text, answer.disclosed_bytes) == ("Theirs.", 2)
