"""The manifest: the same facts give the same bytes, and nothing unsound is read."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from edgeai.errors import EdgeError, ModelCorrupt, ModelNotFound, ModelUnsupported
from edgeai.models.package import MANIFEST, Manifest, PackageFile, Variant, read_manifest, write_manifest

SOUND = Manifest(
    id="tiny@llamacpp-f32",
    engine="llamacpp",
    quantization="f32",
    parameters=7,
    context=8,
    template_sha256=None,
    licence="MIT",
    files=(PackageFile(path="a/tiny.gguf", sha256="0" * 64, size=3),),
    provenance={"kind": "url", "url": "http://127.0.0.1/ü"},
)
JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.text(max_size=8),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """A manifest comes back equal, and writing it again gives the same bytes."""
    write_manifest(tmp_path, SOUND)
    first = (tmp_path / MANIFEST).read_bytes()
    assert read_manifest(tmp_path) == SOUND
    write_manifest(tmp_path, read_manifest(tmp_path))
    assert (tmp_path / MANIFEST).read_bytes() == first


def test_variants_are_read(tmp_path: Path) -> None:
    """Graphs for other devices come back; a package without any says nothing of them."""
    graph = PackageFile(path="npu.onnx", sha256="1" * 64, size=5)
    variants = {"npu": {"embed": Variant(graph="npu.onnx", tokens=64)}}
    facts = replace(SOUND, files=(*SOUND.files, graph), variants=variants)
    write_manifest(tmp_path, facts)
    assert read_manifest(tmp_path) == facts
    write_manifest(tmp_path, SOUND)
    assert "variants" not in (tmp_path / MANIFEST).read_text("utf-8")


@pytest.mark.parametrize(
    "row",
    [
        {"graph": "a/tiny.gguf"},
        {"graph": "none.onnx", "tokens": 4},
        {"graph": "a/tiny.gguf", "tokens": 0},
        {"graph": "a/tiny.gguf", "tokens": 4, "options": {}},
        [],
    ],
)
def test_a_wrong_variant_is_refused(tmp_path: Path, row: object) -> None:
    """Only files that the package lists, of a length, and nothing that is not known."""
    write_manifest(tmp_path, SOUND)
    table = json.loads((tmp_path / MANIFEST).read_text("utf-8"))
    (tmp_path / MANIFEST).write_text(json.dumps(table | {"variants": {"npu": {"embed": row}}}))
    with pytest.raises(ModelCorrupt, match=r"npu\.embed|embed is missing|variant"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("id", "Tiny"),
        ("id", "tiny@llamacpp-q8_0"),
        ("files", []),
        ("files", {}),
        ("files", ["tiny.gguf"]),
        ("parameters", 0),
        ("parameters", True),
        ("context", "8"),
        ("provenance", []),
        ("licence", 3),
        ("format", None),
    ],
)
def test_a_wrong_entry_is_refused(tmp_path: Path, key: str, value: object) -> None:
    """Each wrong entry is ModelCorrupt with the manifest's path."""
    write_manifest(tmp_path, SOUND)
    table = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps(table | {key: value}))
    with pytest.raises(ModelCorrupt, match=MANIFEST):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../up.gguf", "a/../../up", "c:\\x", "C:x", "..", "", "a\\b"]
)
def test_files_must_lie_inside_the_package(tmp_path: Path, path: str) -> None:
    """No manifest can point at files elsewhere."""
    write_manifest(tmp_path, SOUND)
    table = json.loads((tmp_path / MANIFEST).read_text())
    table["files"][0]["path"] = path
    (tmp_path / MANIFEST).write_text(json.dumps(table))
    with pytest.raises(ModelCorrupt, match="inside the package"):
        read_manifest(tmp_path)


def test_a_later_format_is_unsupported(tmp_path: Path) -> None:
    """A package of a later edgeai says so instead of being called damaged."""
    (tmp_path / MANIFEST).write_text('{"format": 2}')
    with pytest.raises(ModelUnsupported, match="Update edgeai"):
        read_manifest(tmp_path)


def test_an_unknown_engine_is_unsupported(tmp_path: Path) -> None:
    """A package for an engine that we do not have is refused where it is read."""
    write_manifest(tmp_path, replace(SOUND, id="tiny@abacus-f32", engine="abacus"))
    with pytest.raises(ModelUnsupported, match="abacus"):
        read_manifest(tmp_path)


def test_no_manifest_is_no_package(tmp_path: Path) -> None:
    """A folder, or a path that does not exist, is ModelNotFound."""
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ModelNotFound, match=MANIFEST):
            read_manifest(folder)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=some.sampled_from(["licence", "files", "format", "size", "provenance", "context"]), value=JSON)
def test_any_json_is_a_manifest_or_a_typed_error(tmp_path: Path, key: str, value: object) -> None:
    """Whatever stands in the file, reading it ends in a manifest or in an error of ours."""
    write_manifest(tmp_path, SOUND)
    table = json.loads((tmp_path / MANIFEST).read_text()) | {key: value}
    (tmp_path / MANIFEST).write_text(json.dumps(table))
    with suppress(EdgeError):
        assert read_manifest(tmp_path).id == SOUND.id


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'"' + b"x" * 2_000_000 + b'"'])
def test_no_bytes_confuse_the_reader(tmp_path: Path, text: bytes) -> None:
    """Bytes that are no JSON, or far too much of it, are ModelCorrupt."""
    (tmp_path / MANIFEST).write_bytes(text)
    with pytest.raises(ModelCorrupt):
        read_manifest(tmp_path)
