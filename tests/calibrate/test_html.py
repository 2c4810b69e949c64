"""The report as a page: complete, self-contained, and without content."""

import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from edgeai.calibrate.html import page
from edgeai.calibrate.plots import _risk
from edgeai.calibrate.report import Counts, Curves, Judged, Report
from edgeai.errors import MissingExtra
from edgeai.monitor.metrics import Pairs
from tests.calibrate.devices import BINDING

COUNTS = Counts(rows=9, duplicates=1, conflicts=0, strangers=2, reused=0, train=4, calibration=4)
PAIRS = Pairs(n=4, W=0.5, S=1, only_s=0.5, only_w=0, neither=0)
LINE = Judged(
    name="our score", auroc=0.9, apgr=None, cpt50=1, cpt80=2, coverage_at_5=0,
    coverage_at_10=0, coverage_at_20=1,
)  # fmt: skip
CURVES = Curves(
    reliability=((0.2, 0.1), (0.8, 0.9)), risk=((0.5, 0.0), (1.0, 0.5)),
    deferral={"our score": ((0.0, 0.5), (1.0, 1.0))}, right=(0.8,), wrong=(0.2,),
)  # fmt: skip
REPORT = Report(
    source="<data>.jsonl", promise="error<=0.05@0.95", in_words="few & far", verdict="Not certified. <b>",
    binding=BINDING, certificate=None, counts=COUNTS, split="calibration", pairs=PAIRS, cloud_is_assumed=True,
    scores=(LINE,), ece=None, brier=0.1, costs=None, signals="p",
    probe=None, router=False, checkpoints=(4, 8), lost=0.02,
    curves=CURVES,
)  # fmt: skip


def test_the_page_is_whole_and_alone() -> None:
    """Four figures, the verdict and all tables, escaped; nothing is loaded; equal reports, equal bytes."""
    text = page(REPORT)
    assert text.count("<svg") == 4
    assert "Not certified. &lt;b&gt;" in text
    assert "few &amp; far" in text
    assert "early exits after 4, 8 tokens" in text
    assert "counts as always right" in text
    assert "all queries go to the cloud" in text
    assert not re.search(r"""<script|@import|(src|href)=["'](?!#)|url\((?!#)""", text)
    assert page(replace(REPORT)) == text


def test_matplotlib_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the error says what to install."""
    monkeypatch.delitem(sys.modules, "edgeai.calibrate.plots", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"edgeai\[calibrate\]"):
        page(REPORT)


def test_early_exits_tell_what_they_lose() -> None:
    """The share of the kept and right; nothing is said of it where nothing leaves early."""
    assert "which lose 2.0% of what is kept and right" in page(REPORT)
    assert "which lose" not in page(replace(REPORT, checkpoints=(), lost=None))


@pytest.mark.parametrize(
    ("promise", "bound"),
    [
        ("error<=0.05@0.95", [0.05, 0.05]),
        ("disagreement<=0.1@0.95", [0.1, 0.1]),
        ("overall-error<=0.2@0.95", [0.4, 0.2]),
        ("quality>=0.9@0.95", None),
    ],
)
def test_the_risk_has_a_line_at_what_is_promised(promise: str, bound: list[float] | None) -> None:
    """Where it is a risk of the kept; the overall error allows them more the fewer they are."""
    axes = Figure().add_subplot()
    _risk(axes, replace(REPORT, promise=promise))
    lines = [line for line in axes.get_lines() if line.get_label() == "promised at most"]
    drawn = [np.asarray(line.get_ydata()).tolist() for line in lines]
    assert drawn == ([] if bound is None else [pytest.approx(bound)])
