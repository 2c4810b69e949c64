"""Finding, listing, verifying, importing and removing models."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from edgeai.errors import ConfigError, DiskFull, ModelCorrupt, ModelNotFound, ModelTooLarge, ModelUnsupported
from edgeai.models import disk, shelf, store
from edgeai.paths import cache_dir
from tests.models.conftest import traces
from tests.models.shop import TINY, list_tiny


@pytest.fixture
def installed(tiny: Path) -> store.InstalledModel:
    """The tiny model, imported."""
    return store.import_(tiny)


def flip_a_bit(path: Path, at: int = -1) -> None:
    """Change one bit and keep size and time of change, as a failing disk does."""
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any use of a socket or a child process fails."""

    def refuse(*args: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)


@pytest.mark.usefixtures("no_network")
def test_an_installed_model_is_found_offline(installed: store.InstalledModel) -> None:
    """Name, id, folder and file all lead to it, without a network call."""
    assert installed.folder is not None
    names = ("tiny", TINY, installed.folder, str(installed.folder))
    assert [store.find(name) for name in names] == [installed] * len(names)
    bare = store.find(installed.path)
    assert bare.folder is None
    assert bare.manifest.weights == installed.manifest.weights
    assert bare.manifest.template_sha256 == installed.manifest.template_sha256
    assert not installed.trusted


def test_the_default_model_is_trusted(model_path: Path) -> None:
    """A file with a hash of the catalog needs no package to be trusted, and import gives it its id."""
    found = store.find(model_path)
    assert found.trusted
    copied = store.import_(model_path, "mine")
    assert (copied.id, copied.trusted) == ("mine@llamacpp-q4_1", True)
    assert copied.manifest.licence == "Apache-2.0"
    assert store.import_(model_path).id == "smollm2-135m-instruct@llamacpp-q4_1"


def test_finding_hashes_only_what_is_new(
    installed: store.InstalledModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second look at an unchanged file reads no more than its header."""
    store.find("tiny")
    monkeypatch.setattr(disk, "hash_file", lambda path: pytest.fail(f"{path} was read again"))
    store.find("tiny")
    store.find(installed.path)


def test_a_changed_file_is_found_out(installed: store.InstalledModel) -> None:
    """Weights that were written to are ModelCorrupt with both hashes at the next start."""
    data = bytearray(installed.path.read_bytes())
    data[-1] ^= 1
    installed.path.write_bytes(data)
    with pytest.raises(ModelCorrupt, match=str(installed.manifest.weights.sha256)):
        store.find("tiny")


def test_verify_finds_what_size_and_time_hide(installed: store.InstalledModel) -> None:
    """A flipped bit that left no trace in the file's facts is found by reading everything."""
    assert store.verify("tiny") == installed
    flip_a_bit(installed.path)
    store.find("tiny")
    with pytest.raises(ModelCorrupt, match="expected"):
        store.verify("tiny")


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_damaged_package_says_what_is_wrong(installed: store.InstalledModel, damage: str) -> None:
    """A missing or cut file is ModelCorrupt with its path and a remedy."""
    if damage == "missing":
        installed.path.unlink()
    else:
        os.truncate(installed.path, 1000)
    with pytest.raises(ModelCorrupt, match=r"tiny\.gguf is .*Pull or import"):
        store.find("tiny")


def test_a_bare_file_is_checked_before_it_is_believed(tiny: Path) -> None:
    """A truncated, a bit-flipped and a missing file each have their typed error."""
    sound = tiny.read_bytes()
    tiny.write_bytes(sound[:-1])
    with pytest.raises(ModelCorrupt):
        store.find(tiny)
    tiny.write_bytes(b"\x00" + sound[1:])
    with pytest.raises(ModelCorrupt):
        store.find(tiny)
    tiny.unlink()
    with pytest.raises(ModelNotFound):
        store.find(tiny)
    (tiny.parent / "tiny.onnx").touch()
    with pytest.raises(ModelUnsupported):
        store.find(tiny.parent / "tiny.onnx")


def test_names_that_are_not_there(tiny: Path) -> None:
    """A known name says how to get it; an unknown one gets the nearest, also of what was imported."""
    with pytest.raises(ModelNotFound, match="edgeai models pull smollm2-135m-instruct"):
        store.find("smollm2-135m-instruct")
    store.import_(tiny, "gardener")
    with pytest.raises(ModelNotFound, match="Did you mean 'gardener'"):
        store.find("gardner")


def test_the_list_leaves_out_what_is_damaged(
    installed: store.InstalledModel, tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One broken manifest does not hide the other models."""
    broken = store.import_(tiny, "broken")
    assert broken.folder is not None
    (broken.folder / "edgeai.json").write_text("{")
    assert store.installed() == (installed,)
    assert "broken" in caplog.text


def test_nothing_is_installed_at_first() -> None:
    """An empty list, and no folder is made by looking."""
    assert store.installed() == ()
    assert not cache_dir().exists()


def test_removing_takes_everything_away(installed: store.InstalledModel) -> None:
    """After remove there is no trace; a second remove is ModelNotFound."""
    store.remove(installed.id)
    assert [trace for trace in traces() if trace != "models"] == []
    with pytest.raises(ModelNotFound):
        store.remove(installed.id)


def test_removing_a_link_leaves_its_target(tiny: Path, tmp_path: Path) -> None:
    """A package that is linked into the store is only unlinked."""
    model = store.import_(tiny)
    assert model.folder is not None
    elsewhere = tmp_path / "elsewhere"
    shutil.move(model.folder, elsewhere)
    model.folder.symlink_to(elsewhere, target_is_directory=True)
    store.remove("tiny")
    assert not model.folder.is_symlink()
    assert (elsewhere / "tiny.gguf").exists()


def test_a_package_folder_can_be_carried_to_another_machine(
    installed: store.InstalledModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder imported elsewhere gives the same manifest, byte for byte."""
    monkeypatch.setenv("EDGEAI_HOME", str(tmp_path / "other"))
    assert installed.folder is not None
    copy = store.import_(installed.folder)
    assert copy.folder is not None
    assert (copy.folder / "edgeai.json").read_bytes() == (installed.folder / "edgeai.json").read_bytes()


def test_importing_twice_replaces(installed: store.InstalledModel, tiny: Path) -> None:
    """The second import of a name takes the first one's place in one step."""
    assert store.import_(tiny) == installed
    assert store.installed() == (installed,)


def test_bad_imports_leave_nothing(tiny: Path, installed: store.InstalledModel, tmp_path: Path) -> None:
    """A bad name, a damaged package, another kind of file: typed errors, and the store is as before."""
    before = traces()
    with pytest.raises(ConfigError):
        store.import_(tiny, "No Name!")
    with pytest.raises(ModelNotFound):
        store.import_(tmp_path / "none.gguf")
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(ModelUnsupported):
        store.import_(text)
    damaged = tmp_path / "damaged"
    assert installed.folder is not None
    shutil.copytree(installed.folder, damaged)
    flip_a_bit(damaged / "tiny.gguf")
    with pytest.raises(ModelCorrupt, match="expected"):
        store.import_(damaged)
    (damaged / "tiny.gguf").unlink()
    with pytest.raises(ModelCorrupt, match="missing"):
        store.import_(damaged)
    assert traces() == before


def test_an_import_into_a_folder_that_cannot_be_written(tiny: Path) -> None:
    """The error is DiskFull with the remedy."""
    cache_dir().parent.mkdir(parents=True, exist_ok=True)
    cache_dir().write_text("not a folder")
    with pytest.raises(DiskFull, match="EDGEAI_HOME"):
        store.import_(tiny)
    assert store.find(tiny).path == tiny, "but a bare file can be opened"


def test_large_models_need_a_word(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are counted by their tensors; ``allow_large`` opens and imports them all the same."""
    monkeypatch.setattr(shelf, "MAX_PARAMETERS", 90_000)
    for refused in (store.find, store.import_):
        with pytest.raises(ModelTooLarge, match="allow_large"):
            refused(tiny)
    assert store.find(tiny, allow_large=True).path == tiny
    assert store.import_(tiny, allow_large=True).id == TINY


def test_a_pulled_package_that_broke_is_pulled_again(tiny: Path) -> None:
    """Pulling repairs an installed package whose files are damaged."""
    list_tiny(tiny, {"kind": "file", "path": str(tiny)})
    model = store.pull("tiny")
    model.path.write_bytes(b"broken")
    assert store.pull("tiny").path.read_bytes() == tiny.read_bytes()
    assert [trace for trace in traces() if "staging" in trace] == []


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a file system")
def test_models_on_a_read_only_disk_can_be_used(tiny: Path) -> None:
    """A store on a disk that cannot be written still serves; removing says why it cannot."""
    list_tiny(tiny, {"kind": "file", "path": str(tiny)})
    cache_dir().mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", cache_dir()], check=False).returncode:
        pytest.skip("this machine does not let us mount")
    try:
        model = store.pull("tiny")
        shutil.rmtree(cache_dir() / "hashes")
        subprocess.run(["mount", "-o", "remount,ro", cache_dir()], check=True)
        assert store.find("tiny") == model
        assert store.pull("tiny") == model
        with pytest.raises(DiskFull, match="Read-only file system"):
            store.remove("tiny")
        assert store.find("tiny") == model
    finally:
        subprocess.run(["umount", "-l", cache_dir()], check=True)
