"""Bad files have typed errors, in milliseconds, and native code never sees the worst of them."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

from edgeai.converters.linear import Quant
from edgeai.engines.onnx import open_engine
from edgeai.engines.onnx.proto import read_graph
from edgeai.engines.onnx.vetting import check
from edgeai.errors import (
    EdgeError,
    EngineLoadFailed,
    ModelCorrupt,
    ModelError,
    ModelNotFound,
    ModelUnsupported,
)
from tests.engines.onnx.conftest import tiny_plan, write_tiny_package

Damage = Callable[[Path], object]


def edit(change: Callable[[onnx.ModelProto], object]) -> Damage:
    """Change the graph and leave the weights where they are."""

    def run(folder: Path) -> None:
        path = folder / "model.onnx"
        model = onnx.load(path, load_external_data=False)
        change(model)
        path.write_bytes(model.SerializeToString())

    return run


def cut(name: str, keep: float) -> Damage:
    """Keep only a part of a file."""
    return lambda folder: (folder / name).write_bytes(
        (data := (folder / name).read_bytes())[: int(len(data) * keep)]
    )


def write(name: str, content: str) -> Damage:
    """Put something else into a file."""
    return lambda folder: (folder / name).write_text(content, "utf-8")


def external(model: onnx.ModelProto) -> onnx.TensorProto:
    """A tensor whose data is outside."""
    found: onnx.TensorProto = next(t for t in model.graph.initializer if t.external_data)
    return found


def point(key: str, content: str) -> Damage:
    """Let a tensor say something else about its data."""

    def run(model: onnx.ModelProto) -> None:
        for entry in external(model).external_data:
            entry.value = content if entry.key == key else entry.value

    return edit(run)


def escape_by_link(folder: Path) -> None:
    """The file of weights is a link to one outside."""
    weights = folder / "model.onnx.data"
    weights.rename(folder.parent / "elsewhere")
    weights.symlink_to(folder.parent / "elsewhere")


def rename_operator(model: onnx.ModelProto) -> None:
    """An operator that nobody has."""
    model.graph.node[1].op_type = "Frobnicate"


def foreign_operator(model: onnx.ModelProto) -> None:
    """An operator of somebody's own library."""
    model.graph.node[1].domain = "com.evil"


def shrink_packed(model: onnx.ModelProto) -> None:
    """Packed weights that are smaller than the operation says."""
    node = next(node for node in model.graph.node if node.op_type == "MatMulNBits")
    next(a for a in node.attribute if a.name == "N").i = 1 << 20


def rename_input(model: onnx.ModelProto) -> None:
    """An input that nobody would feed."""
    model.graph.input[0].name = "pixels"


def other_heads(model: onnx.ModelProto) -> None:
    """A cache that does not fit to attention."""
    for value in [*model.graph.input, *model.graph.output]:
        if value.name.startswith(("past", "present")):
            value.type.tensor_type.shape.dim[1].dim_value = 5


def tokenizer_of(n_tokens: int) -> Damage:
    """Another vocabulary."""

    def run(folder: Path) -> None:
        table = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        table["model"]["vocab"] = {f"t{i}": i for i in range(n_tokens)}
        table["model"]["merges"], table["added_tokens"] = [], []
        (folder / "tokenizer.json").write_text(json.dumps(table), "utf-8")

    return run


def give_dims(model: onnx.ModelProto) -> None:
    """A shape that its data does not fill."""
    external(model).dims[0] += 1


def strange_layers(model: onnx.ModelProto) -> None:
    """A present without its past."""
    del model.graph.output[-1]


CASES: dict[str, tuple[Damage, type[EdgeError], str]] = {
    "no file": (lambda folder: (folder / "model.onnx").unlink(), ModelNotFound, "no model"),
    "empty": (write("model.onnx", ""), ModelCorrupt, "damaged"),
    "text": (write("model.onnx", "<html>not found</html>"), ModelCorrupt, "damaged"),
    "half": (cut("model.onnx", 0.5), ModelCorrupt, "cut off"),
    "nearly whole": (cut("model.onnx", 0.999), ModelCorrupt, "cut off"),
    "no weights": (lambda folder: (folder / "model.onnx.data").unlink(), ModelCorrupt, "not there"),
    "half the weights": (cut("model.onnx.data", 0.5), ModelCorrupt, "would end"),
    "absolute": (point("location", "/etc/passwd"), ModelCorrupt, "outside"),
    "above": (point("location", "../secret"), ModelCorrupt, "outside"),
    "on a drive": (point("location", "C:\\weights"), ModelCorrupt, "outside"),
    "by link": (escape_by_link, ModelCorrupt, "outside"),
    "offset": (point("offset", "-4096"), ModelCorrupt, "offset"),
    "huge offset": (point("offset", "9999999999999999"), ModelCorrupt, "would end"),
    "length": (point("length", "12"), ModelCorrupt, "12 bytes"),
    "shape": (edit(give_dims), ModelCorrupt, "shape needs"),
    "operator": (edit(rename_operator), ModelUnsupported, "Frobnicate"),
    "library": (edit(foreign_operator), ModelUnsupported, "com.evil"),
    "input": (edit(rename_input), ModelError, "pixels|embedding|input"),
    "layers": (edit(strange_layers), ModelUnsupported, "fit together"),
    "heads": (edit(other_heads), EngineLoadFailed, "cannot run|cannot load"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), ModelNotFound, "tokenizer"),
    "broken tokenizer": (write("tokenizer.json", "{"), ModelCorrupt, "tokenizer"),
    "large tokenizer": (tokenizer_of(300), ModelCorrupt, "does not match"),
    "small tokenizer": (tokenizer_of(100), ModelCorrupt, "does not match"),
    "config": (write("tokenizer_config.json", "[]"), ModelCorrupt, "table"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_package_has_a_typed_error_at_once(
    tiny: Path, case: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each has its error, with reason and remedy, quickly, and nothing is printed."""
    damage, kind, words = CASES[case]
    damage(tiny)
    began = time.perf_counter()
    with pytest.raises(kind, match=words) as caught:
        open_engine(tiny / "model.onnx", tiny_plan(), name="tiny")
    assert time.perf_counter() - began < 0.5  # milliseconds on an idle machine
    assert caught.value.remedy
    assert capfd.readouterr() == ("", "")


def test_packed_weights_must_fill_their_operation(tmp_path: Path) -> None:
    """Attributes that promise more than the tensor holds never reach the kernel that would read it."""
    folder = write_tiny_package(tmp_path / "packed", quant="int8")
    open_engine(folder, tiny_plan(), name="tiny").close()
    edit(shrink_packed)(folder)
    with pytest.raises(ModelCorrupt, match="elements"):
        open_engine(folder, tiny_plan(), name="tiny")


@pytest.fixture(scope="module")
def graph_bytes(sound: Path) -> bytes:
    """A sound graph."""
    return (sound / "model.onnx").read_bytes()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_graphs_are_read_without_harm(
    graph_bytes: bytes, tmp_path: Path, data: st.DataObject
) -> None:
    """Whatever bytes are changed: the reader ends quickly, with a graph or with a ModelError."""
    changed = bytearray(graph_bytes)
    for _ in range(data.draw(st.integers(1, 8))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "model.onnx"
    path.write_bytes(changed[: data.draw(st.integers(1, len(changed)))])
    began = time.perf_counter()
    with contextlib.suppress(ModelError):
        check(read_graph(path), path)
    assert time.perf_counter() - began < 0.5


def test_a_graph_in_a_graph_in_a_graph_ends(tmp_path: Path) -> None:
    """Nesting without end is refused before Python's own stack is full."""
    graph = helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "inner", [], [])
    for _ in range(30):
        graph = helper.make_graph([helper.make_node("If", ["a"], ["b"], then_branch=graph)], "outer", [], [])
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(ModelCorrupt, match="nested"):
        read_graph(path)


@pytest.mark.parametrize("count", [50, pytest.param(1000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("quant", ["f32", "int8"])
def test_no_damage_of_a_graph_breaks_the_process(tmp_path: Path, quant: Quant, count: int) -> None:
    """Of many damaged graphs each is refused in good order or runs, and nothing else is written."""
    folder = write_tiny_package(tmp_path / "tiny", quant=quant)
    done = subprocess.run(
        [sys.executable, "-m", "tests.engines.onnx.hostile_child", str(folder), "0", str(count)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "ModelCorrupt" in done.stdout
