"""Bundles bring what was signed by somebody who is trusted, and nothing else."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeai.errors import (
    ConfigError,
    EdgeError,
    ModelCorrupt,
    ModelNotFound,
    ModelTooLarge,
    ModelUnsupported,
    ModelUntrusted,
)
from edgeai.models import bundle, store
from edgeai.models.bundle import CONTENTS, SIGNATURE, new_key, public_key, write_bundle
from edgeai.models.unbundling import import_bundle
from edgeai.paths import cache_dir, data_dir
from tests.tiny_gguf import write_tiny_gguf

TINY = "tiny@llamacpp-f32"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A private key."""
    new_key(tmp_path / "key.pem")
    return tmp_path / "key.pem"


@pytest.fixture
def sent(tmp_path: Path, key: Path) -> Path:
    """A bundle with a model and a contract; the store is empty again."""
    store.import_(write_tiny_gguf(tmp_path / "tiny.gguf"))
    contract = tmp_path / "mine.contract.json"
    contract.write_text("{}\n")
    write_bundle(tmp_path / "sent.edgeai", [TINY], key, calibrations=[contract])
    store.remove(TINY)
    return tmp_path / "sent.edgeai"


def is_empty() -> bool:
    """Whether no model of a bundle is in the store, and nothing is in work."""
    left = [path.name for top in ("models", "staging") for path in (cache_dir() / top).glob("tiny*")]
    return not left and not (data_dir() / "imported").exists()


def test_what_was_sent_arrives(sent: Path, key: Path) -> None:
    """The model is installed, the other files are where the answer says."""
    found = import_bundle(sent, trusted=[public_key(key)])
    assert [model.id for model in found.models] == [TINY]
    assert store.verify(TINY).manifest == found.models[0].manifest
    assert [path.read_text() for path in found.files] == ["{}\n"]
    assert import_bundle(sent, trusted=[public_key(key)]).files == found.files  # again, over itself


def test_the_settings_pin_the_keys(sent: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a trusted key nobody is; with it the sender is."""
    with pytest.raises(ModelUntrusted, match="not trusted"):
        import_bundle(sent)
    monkeypatch.setenv("EDGEAI_TRUSTED_KEYS", f"other {public_key(key)}")
    assert import_bundle(sent).models


def test_the_same_content_gives_the_same_bytes(sent: Path, key: Path, tmp_path: Path) -> None:
    """Ed25519 signs without chance, and no time is written."""
    store.import_(tmp_path / "tiny.gguf")
    write_bundle(tmp_path / "again.edgeai", [TINY], key, calibrations=[tmp_path / "mine.contract.json"])
    assert (tmp_path / "again.edgeai").read_bytes() == sent.read_bytes()


def change_weights(path: Path, key: Path) -> None:
    """One bit, near the end of the weights."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_off(path: Path, key: Path) -> None:
    """The last third is missing."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def cut_short(path: Path, key: Path) -> None:
    """Not even the signature is whole."""
    path.write_bytes(path.read_bytes()[:700])


def no_tar(path: Path, key: Path) -> None:
    """Something else."""
    path.write_bytes(b"no bundle" * 1000)


def rewrite(path: Path, change: Callable[[dict[str, bytes]], None], key: Path | None = None) -> None:
    """The same bundle with other members, its list signed anew if there is a key."""
    with tarfile.open(path) as tar:
        files = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]  # all regular
    change(files)
    if key is not None:
        files[SIGNATURE] = bundle._signature(bundle._load_key(key), files[CONTENTS])
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            tar.addfile(bundle._info(name, len(content)), io.BytesIO(content))


def listed(files: dict[str, bytes], change: Callable[[list[dict[str, object]]], None]) -> None:
    """Change the list of files."""
    table = json.loads(files[CONTENTS])
    change(table["files"])
    files[CONTENTS] = json.dumps(table).encode()


def unsigned(path: Path, key: Path) -> None:
    """No signature at all."""
    rewrite(path, lambda files: files.__delitem__(SIGNATURE))


def list_changed(path: Path, key: Path) -> None:
    """The list is not what was signed."""
    rewrite(path, lambda files: listed(files, lambda rows: rows.reverse()))


def strange_signature(path: Path, key: Path) -> None:
    """The trusted key, and a signature that is none."""
    content = json.dumps({"key": public_key(key), "signature": "AAAA"}).encode()
    rewrite(path, lambda files: files.__setitem__(SIGNATURE, content))


def one_more(path: Path, key: Path) -> None:
    """A member that nobody signed."""
    rewrite(path, lambda files: files.__setitem__("models/x", b"x"))


def one_less(path: Path, key: Path) -> None:
    """A member is missing."""
    rewrite(path, lambda files: files.__delitem__("calibrations/mine.contract.json"))


def escape(path: Path, key: Path) -> None:
    """A trusted sender's list leads out of the folder."""

    def change(files: dict[str, bytes]) -> None:
        listed(files, lambda rows: rows[0].update(path="models/../../escaped"))

    rewrite(path, change, key)


def wrong_hash(path: Path, key: Path) -> None:
    """A trusted sender's list names another hash."""
    rewrite(path, lambda files: listed(files, lambda rows: rows[0].update(sha256="0" * 64)), key)


def later_format(path: Path, key: Path) -> None:
    """Made by a later version."""

    def change(files: dict[str, bytes]) -> None:
        files[CONTENTS] = json.dumps(json.loads(files[CONTENTS]) | {"format": 2}).encode()

    rewrite(path, change, key)


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (change_weights, ModelCorrupt),
        (cut_off, ModelCorrupt),
        (cut_short, ModelCorrupt),
        (no_tar, ModelCorrupt),
        (unsigned, ModelUntrusted),
        (list_changed, ModelUntrusted),
        (strange_signature, ModelUntrusted),
        (one_more, ModelCorrupt),
        (one_less, ModelCorrupt),
        (escape, ModelCorrupt),
        (wrong_hash, ModelCorrupt),
        (later_format, ModelUnsupported),
        (lambda path, key: path.unlink(), ModelNotFound),
    ],
)
def test_a_bad_bundle_is_refused_and_leaves_nothing(
    damage: Callable[[Path, Path], None], error: type[EdgeError], sent: Path, key: Path, tmp_path: Path
) -> None:
    """Typed errors; no model, no file, no folder."""
    damage(sent, key)
    with pytest.raises(error):
        import_bundle(sent, trusted=[public_key(key)])
    assert is_empty()
    assert not (tmp_path / "escaped").exists()


def test_a_stranger_is_refused(sent: Path, tmp_path: Path) -> None:
    """However well it is signed."""
    other = new_key(tmp_path / "other.pem")
    with pytest.raises(ModelUntrusted, match="not trusted"):
        import_bundle(sent, trusted=[other])
    assert is_empty()


def test_large_models_are_refused_here_too(sent: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless they are allowed."""
    monkeypatch.setattr("edgeai.models.shelf.MAX_PARAMETERS", 1000)
    with pytest.raises(ModelTooLarge):
        import_bundle(sent, trusted=[public_key(key)])
    assert is_empty()
    assert import_bundle(sent, trusted=[public_key(key)], allow_large=True).models


def test_a_bundle_keeps_each_file_and_its_name(tmp_path: Path, key: Path) -> None:
    """Two files of one name would lose one, and a name without .edgeai could not be imported."""
    files = [tmp_path / name / "x.contract.json" for name in ("a", "b")]
    for file in files:
        file.parent.mkdir()
        file.write_text("{}\n")
    with pytest.raises(ConfigError, match=r"Two files would be calibrations/x\.contract\.json"):
        write_bundle(tmp_path / "sent.edgeai", [], key, calibrations=files)
    with pytest.raises(ConfigError, match=r"does not end in \.edgeai"):
        write_bundle(tmp_path / "sent", [], key, calibrations=files[:1])
    write_bundle(tmp_path / "sent.edgeai", [], key, calibrations=[files[0], files[0]])


def test_a_key_is_for_its_owner_alone(key: Path) -> None:
    """Nobody else may read it, it is not made twice, and other files are no keys."""
    assert key.stat().st_mode & 0o077 == 0
    with pytest.raises(ConfigError, match="exists"):
        new_key(key)
    with pytest.raises(ConfigError, match="not a private key"):
        public_key(Path(__file__))
