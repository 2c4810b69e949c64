"""The file of a contract: what is written is read, and nothing else is."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeai.errors import ContractInvalid
from edgeai.monitor.contract import Binding, Certificate, Contract, load, save
from edgeai.monitor.probe import Layer, Probe, pack
from edgeai.monitor.promise import Promise
from edgeai.monitor.score import Category, Column, Score
from edgeai.monitor.stages import Checkpoint, Futility, Pipeline, Router

COLUMN = Column(name="sum_logprob", mean=-1.0, scale=0.5, low=-3.0, high=-0.1, weight=1.25)
BINDING = Binding(
    method="choose", task="intents", engine="llamacpp", weights="a" * 64, template="b" * 64, head="c" * 64,
    temperature=0.0, max_tokens=16, schema=None, scorer="exact",
)  # fmt: skip


ONES = pack(np.ones(4))


def contract() -> Contract:
    probe = Probe(
        layers=(
            Layer(weights=pack(np.arange(8.0)), bias=(0.1, 0.2)),
            Layer(weights=pack(np.ones(2)), bias=(0.3,)),
        )
    )
    score = Score(
        name="fit", intercept=0.1 + 0.2, columns=(COLUMN,), probe=probe, curve=((0.0, 0.1), (0.5, 0.9)),
        categories=(Category(name="label", weights={"a": 0.5, "ä": -0.25}),),
    )  # fmt: skip
    return Contract(
        promise=Promise.parse("error<=0.05@0.95"),
        binding=BINDING,
        pipeline=Pipeline(
            score=score,
            router=Router(intercept=0.0, columns=(COLUMN,), idf=ONES, words=ONES, threshold=0.5),
            futility=Futility(checkpoints=(Checkpoint(tokens=4, score=score, threshold=1 / 3),), lost=0.01),
        ),
        certificate=Certificate(
            threshold=2 / 3, procedure="p", p_value=0.01, level=0.035, n=100, kept=80, errors=1, coverage=0.8,
            base_error=0.1, n_train=100, calibration="d" * 64, audit_rate=0.1,
        ),
        notes={"data": "made up", "date": "2026-01-01"},
    )  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.contract.json"
    save(contract(), path)
    return path


def test_it_comes_back_as_it_was(file: Path) -> None:
    """Read again it is equal, to the last bit of every number, and written again it gives the same bytes."""
    found = load(file)
    assert found == contract()
    before = file.read_bytes()
    save(found, file)
    assert file.read_bytes() == before


def edit(file: Path, *keys: str, to: Any, resign: bool = False) -> None:  # noqa: ANN401 - any JSON
    from edgeai.monitor.contract import _checksum

    table = json.loads(file.read_text("utf-8"))
    inner = table
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    if resign:
        table["sha256"] = _checksum(table["contract"])
    file.write_text(json.dumps(table), encoding="utf-8")


@pytest.mark.parametrize(
    "keys",
    [
        ("certificate", "threshold"),
        ("promise", "bound"),
        ("pipeline", "score", "intercept"),
        ("binding", "max_tokens"),
    ],
)
def test_an_edit_is_noticed(file: Path, keys: tuple[str, ...]) -> None:
    """A changed number no longer fits the checksum."""
    edit(file, "contract", *keys, to=1)
    with pytest.raises(ContractInvalid, match="changed after it was certified"):
        load(file)


@pytest.mark.parametrize(
    ("keys", "to", "says"),
    [
        (("certificate", "errors"), 81, "contradict"),
        (("certificate", "kept"), 0, "contradict"),
        (("certificate", "p_value"), 0.04, "not passed"),
        (("certificate", "threshold"), 1.5, "threshold"),
        (("certificate", "n"), "100", "certificate.n should be of type int"),
        (("certificate", "n"), True, "certificate.n should be of type int"),
        (("promise", "kind"), "luck", "promise.kind should be one of"),
        (("promise", "bound"), 7.0, "bound"),
        (("promise", "extra"), 7.0, "extra"),
        (("pipeline", "score", "columns"), {}, "should be a list"),
        (("pipeline", "score", "curve"), [[1.0]], "should be a list of 2"),
        (
            ("pipeline", "score", "probe", "layers"),
            [{"weights": "!!", "bias": [0.0]}],
            "not a valid contract",
        ),
        (("pipeline", "score", "probe", "layers"), [], "layers of a probe"),
        (("pipeline", "router", "idf"), "", "equal sizes"),
        (("binding",), None, "binding should be a table"),
    ],
)
def test_what_cannot_be_is_refused(file: Path, keys: tuple[str, ...], to: object, says: str) -> None:
    """Even with a fitting checksum: types, counts and the passed test are looked at."""
    edit(file, "contract", *keys, to=to, resign=True)
    with pytest.raises(ContractInvalid, match=says):
        load(file)


@pytest.mark.parametrize("text", ["", "{}", "[1]", "null", '{"format": 1}', "[" * 100_000, "\udcff"])
def test_what_is_no_contract(tmp_path: Path, text: str) -> None:
    """Any other file is a ContractInvalid, never a KeyError."""
    path = tmp_path / "x.contract.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ContractInvalid):
        load(path)
    with pytest.raises(ContractInvalid):
        load(tmp_path / "absent.contract.json")


def test_a_later_format_is_named(file: Path) -> None:
    """A file of a later version says so."""
    edit(file, "format", to=2)
    with pytest.raises(ContractInvalid, match="format 2"):
        load(file)


def test_an_infinite_number_cannot_be_written(tmp_path: Path) -> None:
    """NaN and infinity are no JSON; such a contract is a bug, found at once."""
    bad = replace(contract(), certificate=replace(contract().certificate, p_value=math.nan))
    with pytest.raises(ValueError, match="not JSON compliant"):
        save(bad, tmp_path / "x")


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("weights", "e" * 64, "model file"),
        ("template", None, "chat template"),
        ("engine", "onnx", "engine"),
        ("task", "other", "task"),
        ("head", "f" * 64, "prompt head"),
        ("temperature", 0.7, "temperature"),
        ("max_tokens", 17, "limit of tokens"),
        ("schema", "0" * 64, "schema"),
        ("method", "ask", "method"),
    ],
)
def test_any_other_use_is_named(field: str, value: object, word: str) -> None:
    """Each part of the binding is compared, and the reason names it with both values."""
    now = replace(BINDING, **{field: value})  # type: ignore[arg-type]  # one field after the other
    assert word in (contract().matches(now) or "")


def test_the_same_use_matches() -> None:
    """The scorer is not known at run time; everything else has to be equal."""
    assert contract().matches(BINDING) is None
    assert contract().matches(replace(BINDING, scorer=None)) is None
    assert contract().matches(replace(BINDING, scorer="judge")) is not None


@pytest.mark.parametrize(
    ("promise", "holds"),
    [
        ("quality>=0.9@0.9", False),
        ("disagreement<=0.1@0.9", False),
        ("error<=0.1@0.9", True),
        ("overall-error<=0.1@0.9", True),
    ],
)
def test_another_cloud_voids_what_was_promised_about_one(promise: str, *, holds: bool) -> None:
    """Quality and disagreement are measured against one cloud's answers, errors against references."""
    made = replace(contract(), promise=Promise.parse(promise), binding=replace(BINDING, cloud="small"))
    why = made.matches(replace(BINDING, cloud="large"))
    assert (why is None) is holds
    assert why is None or "a cloud with the model small, and this is large" in why
    assert made.matches(replace(BINDING, cloud="small")) is None
    assert made.matches(replace(BINDING, cloud=None)) is None


def test_it_keeps_from_the_threshold_on() -> None:
    """At the threshold kept, below it not, and never without a score."""
    assert contract().keeps(2 / 3)
    assert not contract().keeps(math.nextafter(2 / 3, 0))
    assert not contract().keeps(None)
