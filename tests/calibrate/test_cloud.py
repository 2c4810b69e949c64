"""The cloud in a calibration: answers, verdicts and the bill."""

import pytest

from edgeai import Edge
from edgeai.calibrate.cloud import LEDGER_TASK, ask_cloud, cloud_of, estimate, judge
from edgeai.calibrate.data import Row
from edgeai.calibrate.task import Task
from edgeai.cloud import Cloud
from edgeai.economics import Price
from edgeai.errors import BudgetExceeded, CloudError, CloudTimeout, CloudUnavailable
from edgeai.ledger import Ledger
from edgeai.policy import Policy
from edgeai.testing import FakeCloud, FakeEngine

ALLOW = Policy(privacy="allow")


def edge(cloud: Cloud, policy: Policy = ALLOW) -> Edge:
    return Edge(engine=FakeEngine("the device"), cloud=cloud, policy=policy, ledger=False)


@pytest.mark.parametrize(("said", "quality"), [("right", 1.0), ("Partly right.", 0.5), ("wrong", 0.0)])
def test_the_judge(said: str, quality: float) -> None:
    """Its word is a quality; question, reference and answer are what it was shown."""
    cloud = FakeCloud(said)
    assert judge(edge(cloud), "Who?", "Ann", "Anna") == quality
    [asked] = cloud.received
    shown = "\n".join(message.text for message in asked.messages)
    assert all(text in shown for text in ("Who?", "Ann", "Anna"))


def test_the_device_is_never_the_judge() -> None:
    """A verdict that is none, or a dead cloud, is an error: the device's own opinion does not count."""
    for cloud in (FakeCloud("perhaps"), FakeCloud("right", error=CloudTimeout("no answer"))):
        with pytest.raises(CloudError):
            judge(edge(cloud), "Who?", "Ann", "Anna")


def test_methods_reach_the_cloud() -> None:
    """ask, choose and extract are asked in their own form; the Edge's threshold does not matter."""
    policy = Policy(privacy="allow", min_score=0.0)
    assert ask_cloud(edge(FakeCloud("Paris"), policy), Task(system="Be short."), "Capital?").text == "Paris"
    choose = Task(method="choose", choices=("x", "y"), examples=(("a", "x"),))
    assert ask_cloud(edge(FakeCloud("Y"), policy), choose, "b").text == "y"
    extract = Task(method="extract", schema={"type": "object", "required": ["a"]})
    assert ask_cloud(edge(FakeCloud('{"a": 1}'), policy), extract, "b").text == '{"a": 1}'
    with pytest.raises(CloudUnavailable, match="does not fit the schema"):
        ask_cloud(edge(FakeCloud("{}"), policy), extract, "b")


def test_the_budget_counts(tmp_path: object) -> None:
    """The Edge's own budget is kept, and what was spent is in its ledger."""
    with pytest.raises(BudgetExceeded):
        ask_cloud(edge(FakeCloud("x"), Policy(privacy="allow", budget_usd={"query": 1e-9})), Task(), "a")
    with Edge(engine=FakeEngine(), cloud=FakeCloud("x y"), policy=ALLOW) as recorded:
        answer = ask_cloud(recorded, Task(name="t"), "a")
    with Ledger.open() as ledger:
        [row] = ledger.rows()
    assert (row.cost_usd, row.task) == (answer.cost_usd, LEDGER_TASK)
    assert answer.cost_usd


def test_the_bill() -> None:
    """Every body is counted to the byte; an unknown price stays unknown."""
    rows = [Row(line=n, prompt=f"question {n}", reference="r") for n in range(3)]
    cloud = FakeCloud("x", price=Price(prompt_usd=1.0, completion_usd=2.0))
    bill = estimate(cloud, Task(max_tokens=10), rows, answers=True, verdicts=0)
    assert bill.queries == 3
    asking = edge(cloud)
    for row in rows:
        ask_cloud(asking, Task(max_tokens=10), row.prompt)
    assert bill.sent_bytes == sum(len(cloud.encode(sent)) for sent in cloud.received)
    assert bill.most_usd == pytest.approx((bill.sent_bytes + 3 * 10 * 2) / 1e6)
    assert 0 < (bill.likely_usd or 0) < (bill.most_usd or 0)
    judged = estimate(cloud, Task(max_tokens=10), rows, answers=True, verdicts=2)
    assert judged.queries == 9
    unknown = estimate(FakeCloud("x", price=None), Task(), rows, answers=True, verdicts=0)
    assert unknown.most_usd is None
    assert "not known" in str(unknown)
    assert cloud_of(asking) is cloud
