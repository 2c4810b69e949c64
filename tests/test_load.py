"""Which package and which engine a name means, on the real model."""

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from edgeai import Edge, MissingExtra, ModelCorrupt, ModelNotFound, ModelTooLarge, ModelUnsupported, Policy
from edgeai import load as loading
from edgeai.binding import weights_hash
from edgeai.engines import DevicePlan
from edgeai.errors import OutOfMemory
from edgeai.load import Wanted, available_engines, family_speeds, open_model
from edgeai.measure import Speed, speeds
from edgeai.models import store
from edgeai.models.store import InstalledModel, Progress
from edgeai.monitor.contract import Binding
from edgeai.paths import cache_dir, config_dir
from edgeai.prepare import is_known, is_prepared, prepare
from edgeai.testing import FakeEngine
from tests.engines.onnx.conftest import write_tiny_package
from tests.engines.onnx.foreign import genai_like, optimum_like
from tests.promises import contract

NAME = "smollm2-135m-instruct"
QUESTION = "Name the chemical symbol for gold."


@pytest.fixture
def both(onnx_package: Path) -> tuple[InstalledModel, ...]:
    """The default model prepared for both engines."""
    link = cache_dir() / "models" / onnx_package.name
    link.symlink_to(onnx_package, target_is_directory=True)
    return prepare(NAME)


def only(monkeypatch: pytest.MonkeyPatch, *engines: str) -> None:
    """As if only these engines were installed."""
    monkeypatch.setattr(loading, "available_engines", lambda: engines)


def test_pull_prepares_for_every_installed_engine(model_path: Path) -> None:
    """The GGUF is pulled and converted once, with layers as progress; a second time nothing is done."""
    steps: list[Progress] = []
    made = prepare(NAME, progress=steps.append)
    assert [model.manifest.engine for model in made] == ["llamacpp", "onnx"]
    converted = [step for step in steps if step.stage == "convert"]
    assert converted
    assert converted[-1].done == converted[-1].total
    again: list[Progress] = []
    assert prepare(NAME, progress=again.append) == made
    assert not [step for step in again if step.stage in ("download", "convert")]
    assert is_prepared(NAME)
    assert is_known(NAME)
    assert not is_known("nosuch")


def test_an_id_prepares_that_package_only(model_path: Path) -> None:
    """With an engine in the id nothing is made for the other."""
    assert [model.manifest.engine for model in prepare(f"{NAME}@llamacpp-q4_1")] == ["llamacpp"]
    assert not [model for model in store.installed() if model.manifest.engine == "onnx"]


@pytest.mark.parametrize("engine", ["llamacpp", "onnx"])
def test_the_engine_can_be_decided_by_hand(both: Sequence[InstalledModel], engine: str) -> None:
    """The answer says which one ran, and both know the chemical symbol for gold."""
    with Edge(NAME, engine=engine, n_ctx=512, ledger=False) as edge:  # type: ignore[arg-type]  # a parameter
        answer = edge.ask(QUESTION, max_tokens=24)
    assert answer.engine == engine
    assert answer.model == next(model.id for model in both if model.manifest.engine == engine)
    assert "Au" in answer.text


def test_auto_takes_the_faster_engine_and_measures_once(both: Sequence[InstalledModel]) -> None:
    """The first load measures and keeps it; `again` measures anew."""
    with Edge(NAME, n_ctx=512, ledger=False) as edge:
        used = edge.info.engine
    ranked = family_speeds(NAME)
    assert used == ranked[0].engine
    assert {speed.engine for speed in ranked} == {"llamacpp", "onnx"}
    assert all(speed.decode_tps > 1 and speed.prefill_tps > 1 for speed in ranked)
    (note,) = (cache_dir() / "speeds").iterdir()
    written = note.stat().st_mtime_ns
    with Edge(NAME, n_ctx=512, ledger=False):
        assert note.stat().st_mtime_ns == written


def test_another_engine_where_memory_is_too_small_for_the_first(
    both: Sequence[InstalledModel], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The one that fits is loaded, and the log tells why; if none fits, the error names both."""
    scarce = {both[0].id}

    def planned(model: InstalledModel, *_: object) -> DevicePlan:
        if model.id in scarce:
            raise OutOfMemory(f"{model.id} does not fit into memory", why="Too large", remedy="Free some")
        return DevicePlan(n_ctx=256, n_threads=1)

    monkeypatch.setattr(loading, "device_plan", planned)
    with caplog.at_level(logging.WARNING, "edgeai.load"):
        opened = open_model(NAME, "auto").engine
    assert opened.info.engine == both[1].manifest.engine
    assert f"{both[0].id} does not fit" in caplog.text
    opened.close()
    with pytest.raises(OutOfMemory):
        open_model(NAME, both[0].manifest.engine)  # type: ignore[arg-type]  # a name
    scarce.add(both[1].id)
    with pytest.raises(OutOfMemory) as refused:
        open_model(NAME, "auto")
    assert all(model.id in refused.value.what for model in both)


def test_a_smaller_package_where_the_profile_allows_it(
    both: Sequence[InstalledModel], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of the same engine, if one was asked for; by other profiles it is an error, as ever."""
    onnx = next(model for model in both if model.manifest.engine == "onnx")
    files = tuple(replace(file, size=1) for file in onnx.manifest.files)
    small = replace(onnx, manifest=replace(onnx.manifest, id=f"{NAME}@onnx-int4", files=files))
    monkeypatch.setattr(loading, "_usable", lambda name: [*both, small])
    opened: list[str] = []

    def planned(model: InstalledModel, *_: object) -> DevicePlan:
        opened.append(model.id)
        if model.id != small.id:
            raise OutOfMemory(f"{model.id} does not fit into memory", why="Too large", remedy="Free some")
        return DevicePlan(n_ctx=256, n_threads=1)

    monkeypatch.setattr(loading, "device_plan", planned)
    with pytest.raises(OutOfMemory):
        open_model(NAME, "onnx", Wanted(profile="generic"))
    assert opened == [onnx.id]
    own = config_dir() / "device_profiles" / "kiosk.toml"
    own.parent.mkdir(parents=True)
    shipped = (resources.files("edgeai.device_profiles") / "intel-n100-kiosk.toml").read_text()
    named = shipped.replace("intel-n100-kiosk", "kiosk")
    own.write_text(named.replace('adjust = ["n_ctx"]', 'adjust = ["n_ctx", "quantization"]'))
    open_model(NAME, "onnx", Wanted(profile="kiosk")).engine.close()
    assert opened[-1] == small.id
    assert both[0].id not in opened


@pytest.mark.parametrize("engine", ["llamacpp", "onnx"])
def test_a_contract_decides_which_package_is_loaded(
    both: Sequence[InstalledModel], engine: str, model_path: Path
) -> None:
    """Auto takes the one that it is bound to, without measuring; what still differs is named."""
    package = next(model for model in both if model.manifest.engine == engine)
    facts = Binding(
        method="ask", task=None, engine=engine, weights=weights_hash(package), template=None, head=None,
        temperature=0.0, max_tokens=1,
    )  # fmt: skip
    policy = Policy(contract=contract(facts))
    with Edge(NAME, n_ctx=512, ledger=False, policy=policy) as edge:
        assert edge.info.engine == engine
        template = edge.ask(QUESTION, max_tokens=1).explanation
    assert "a chat template with the hash" in template  # the first thing that differs
    assert not (cache_dir() / "speeds").exists()


def test_a_damaged_note_means_measuring_again(tmp_path: Path, model_path: Path) -> None:
    """Whatever is in the note, the engine is found."""
    model = store.find(NAME)

    def ranked() -> tuple[Speed, ...]:
        return speeds([model], lambda found: FakeEngine("word " * 40, delay_s=0.001), circumstances={})

    first = ranked()
    (note,) = (cache_dir() / "speeds").iterdir()
    note.write_text("{", "utf-8")
    assert [speed.id for speed in ranked()] == [speed.id for speed in first]
    assert json.loads(note.read_text("utf-8"))


def test_only_llamacpp_installed(both: Sequence[InstalledModel], monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is used without a measurement, and the other is a missing extra."""
    only(monkeypatch, "llamacpp")
    with Edge(NAME, n_ctx=512, ledger=False) as edge:
        assert edge.info.engine == "llamacpp"
    with pytest.raises(MissingExtra, match=r"edgeai\[onnx\]"):
        Edge(NAME, engine="onnx", ledger=False)
    assert not (cache_dir() / "speeds").exists()


def test_only_onnx_installed_but_nothing_converted(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The GGUF alone cannot run; the error names the extra that would."""
    only(monkeypatch, "onnx")
    with pytest.raises(MissingExtra, match=r"edgeai\[llama\]"):
        Edge(NAME, ledger=False)


def test_a_package_of_the_other_engine_is_refused(model_path: Path) -> None:
    """By path, by id, and by name; each names a remedy."""
    with pytest.raises(ModelUnsupported, match="llamacpp"):
        Edge(model_path, engine="onnx", ledger=False)
    with pytest.raises(ModelUnsupported, match="edgeai models pull"):
        Edge(NAME, engine="onnx", ledger=False)


def test_nothing_installed_says_how_to_pull(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A known model that is not there names the command."""
    monkeypatch.setenv("EDGEAI_HOME", str(tmp_path / "empty"))
    with pytest.raises(ModelNotFound, match=f"edgeai models pull {NAME}"):
        Edge(NAME, ledger=False)


def test_both_engines_are_installed_for_the_tests() -> None:
    """Otherwise half of the suite would prove nothing."""
    assert available_engines() == ("llamacpp", "onnx")


# what others exported


@pytest.mark.parametrize("make", [genai_like, optimum_like])
def test_folders_of_other_exporters(tmp_path: Path, make: Callable[[Path, Path], Path]) -> None:
    """The folder or its `.onnx` file will do; both are named by what they are."""
    folder = make(write_tiny_package(tmp_path / "tiny"), tmp_path / "other")
    texts = set()
    for model in (folder, str(folder), folder / "model.onnx"):
        with Edge(model, n_ctx=128, ledger=False) as edge:
            answer = edge.ask("Tell me about the rain.", max_tokens=6)
        assert (answer.engine, answer.model) == ("onnx", "other@onnx-f32")
        texts.add(answer.text)
    assert len(texts) == 1


def test_the_graph_of_a_package_names_the_package(tmp_path: Path) -> None:
    """Its manifest counts, then."""
    folder = write_tiny_package(tmp_path / "tiny")
    with Edge(folder / "model.onnx", n_ctx=128, ledger=False) as edge:
        assert edge.info.model == store.find(folder).id


def test_a_folder_of_several_graphs_asks_which(tmp_path: Path) -> None:
    """One of them may be named; a decoder that says nothing of itself is taken as it is."""
    folder = optimum_like(write_tiny_package(tmp_path / "tiny"), tmp_path / "other")
    (folder / "model.onnx").rename(folder / "decoder.onnx")
    with Edge(folder, n_ctx=128, ledger=False) as edge:
        assert edge.info.model == "decoder@onnx-f32"
    shutil.copy(folder / "decoder.onnx", folder / "encoder.onnx")
    with pytest.raises(ModelUnsupported, match=r"decoder\.onnx, encoder\.onnx"):
        Edge(folder, ledger=False)


def lose_the_weights(folder: Path) -> None:
    (folder / "model.onnx.data").unlink()


def cut_the_graph(folder: Path) -> None:
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:1000])


def lose_the_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def lose_the_graph(folder: Path) -> None:
    (folder / "model.onnx").unlink()


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lose_the_weights, ModelCorrupt),
        (cut_the_graph, ModelCorrupt),
        (lose_the_tokenizer, ModelNotFound),
        (lose_the_graph, ModelNotFound),
    ],
)
def test_damaged_folders_of_others(
    tmp_path: Path, damage: Callable[[Path], None], error: type[Exception]
) -> None:
    """The engine's typed errors reach the app, by folder and by file."""
    folder = write_tiny_package(tmp_path / "tiny")
    (folder / "edgeai.json").unlink()
    Edge(folder, n_ctx=128, ledger=False).close()
    damage(folder)
    for model in (folder, folder / "model.onnx"):
        with pytest.raises(error):
            Edge(model, ledger=False)


def test_a_graph_is_for_its_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand for the other engine, too large, or without its library it is refused, with the remedy."""
    folder = genai_like(write_tiny_package(tmp_path / "tiny"), tmp_path / "other")
    with pytest.raises(ModelUnsupported, match="not llamacpp"):
        Edge(folder, engine="llamacpp", ledger=False)
    with monkeypatch.context() as patch:
        patch.setattr("edgeai.models.shelf.MAX_PARAMETERS", 1000)
        with pytest.raises(ModelTooLarge):
            Edge(folder, ledger=False)
        Edge(folder, ledger=False, allow_large=True).close()
    only(monkeypatch, "llamacpp")
    with pytest.raises(MissingExtra, match=r"edgeai\[onnx\]"):
        Edge(folder, ledger=False)
