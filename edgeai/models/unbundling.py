"""Takes a bundle in: signature and every byte first, then the models, whole or not at all."""

import base64
import json
import os
import re
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from edgeai.config import Settings
from edgeai.errors import MissingExtra, ModelCorrupt, ModelNotFound, ModelUnsupported, ModelUntrusted
from edgeai.models import disk
from edgeai.models.bundle import CONTENTS, FORMAT, PREFIX, SIGNATURE, Member, digest, inside
from edgeai.models.catalog import valid_id
from edgeai.models.package import read_manifest
from edgeai.models.shelf import InstalledModel, present, refuse_large
from edgeai.models.workbench import install, working_on
from edgeai.paths import data_dir

__all__ = ["Imported", "import_bundle"]

_MAX_HEAD = 16 << 20
_MAX_MEMBERS = 10_000
_FAULTS = (tarfile.TarError, EOFError, ValueError, OverflowError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What a bundle brought: installed models, and the paths of all other files."""

    models: tuple[InstalledModel, ...]
    files: tuple[Path, ...]


def import_bundle(
    path: str | Path, *, trusted: Sequence[str] | None = None, allow_large: bool = False
) -> Imported:
    """Verify a ``.edgeai`` file and install what is in it.

    ``trusted`` are public keys (None: the setting ``trusted_keys``). Calibrations, profiles and wheels go to
    ``imported/NAME`` in the data folder. Raises ModelUntrusted (no signature, a wrong one, or one by another
    key), ModelCorrupt (truncated, or a file is not what was signed), ModelUnsupported, ModelTooLarge,
    DiskFull, StoreLocked or MissingExtra; then nothing of it is left.
    """
    path = Path(path).expanduser()
    keys = (Settings.load().trusted_keys or "").split() if trusted is None else trusted
    with _opened(path) as tar:
        members = _contents(path, tar, keys)
        _check_all(path, tar, members)
        names = _models(path, members)
        disk.check_room(data_dir(), sum(member.size for member in members))
        models = tuple(_install(path, tar, name, members, allow_large=allow_large) for name in names)
        return Imported(models=models, files=_rest(path, tar, members))


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        tar = tarfile.open(path, "r:")  # noqa: SIM115  # closed below
    except FileNotFoundError as error:
        raise ModelNotFound(f"There is no file {path}") from error
    except (*_FAULTS, OSError) as error:
        raise _corrupt(path, str(error)) from error
    with tar:
        yield tar


def _contents(path: Path, tar: tarfile.TarFile, keys: Sequence[str]) -> tuple[Member, ...]:
    """The signed list of members. Its signature is checked before it is read."""
    contents, signature = (_head(path, tar, name) for name in (CONTENTS, SIGNATURE))
    _check_signature(path, contents, signature, keys)
    try:
        table = json.loads(contents)
        if table["format"] != FORMAT:
            raise ModelUnsupported(f"{path.name} has format {table['format']}", remedy="Update edgeai")
        rows = [
            Member(path=str(r["path"]), sha256=str(r["sha256"]), size=int(r["size"])) for r in table["files"]
        ]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _corrupt(path, f"its list of files cannot be read: {error}") from error
    for row in rows:
        if inside(row.path) is None:
            raise _corrupt(path, f"the file {row.path!r} is not inside the bundle")
        if not re.fullmatch("[0-9a-f]{64}", row.sha256) or row.size < 0:
            raise _corrupt(path, f"sha256 or size of {row.path!r} is not sound")
    if len({row.path for row in rows}) != len(rows) or len(rows) > _MAX_MEMBERS:
        raise _corrupt(path, "a file is in it twice, or there are too many")
    return tuple(rows)


def _check_signature(path: Path, contents: bytes, signature: bytes, keys: Sequence[str]) -> None:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        raise MissingExtra("Bundles need cryptography", extra="crypto", why=str(error)) from error
    try:
        table = json.loads(signature)
        key, signed = str(table["key"]), base64.b64decode(table["signature"], validate=True)
        if key in keys:
            Ed25519PublicKey.from_public_bytes(base64.b64decode(key, validate=True)).verify(
                signed, PREFIX + contents
            )
            return
    except (InvalidSignature, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelUntrusted(
            f"The signature of {path.name} is wrong", why="It was changed, or damaged", remedy="Get it again"
        ) from error
    raise ModelUntrusted(
        f"{path.name} is signed by a key that is not trusted here",
        why=f"The key is {key[:60]}",
        remedy="If it is the sender's, add it to the setting trusted_keys",
    )


def _head(path: Path, tar: tarfile.TarFile, name: str) -> bytes:
    try:
        info = tar.next()
        if info is None or info.name != name or not info.isreg() or info.size > _MAX_HEAD:
            raise ModelUntrusted(
                f"{path.name} is not a signed bundle", why=f"{name} is missing", remedy="Get it again"
            )
        stream = tar.extractfile(info)
        assert stream is not None  # a regular file
        content = stream.read()
    except _FAULTS as error:
        raise _corrupt(path, str(error)) from error
    if len(content) != info.size:
        raise _corrupt(path, "it is cut off")
    return content


def _check_all(path: Path, tar: tarfile.TarFile, members: Sequence[Member]) -> None:
    """Every member is there, in order, as it was signed, and nothing else is."""
    try:
        for member in members:
            info = tar.next()
            if info is None or info.name != member.path or not info.isreg() or info.size != member.size:
                raise _corrupt(path, f"{member.path} is missing or not as it was signed")
            if digest(tar.extractfile(info), info.size) != member.sha256:
                raise _corrupt(path, f"{member.path} is not as it was signed")
        if tar.next() is not None:
            raise _corrupt(path, "it holds more than what was signed")
    except _FAULTS as error:
        raise _corrupt(path, str(error)) from error


def _models(path: Path, members: Sequence[Member]) -> list[str]:
    names = {PurePosixPath(m.path).parts[1] for m in members if m.path.startswith("models/")}
    wrong = [name for name in names if not valid_id(name)]
    if wrong:
        raise _corrupt(path, f"{wrong[0]!r} is not the id of a package")
    return sorted(names)


def _install(
    path: Path, tar: tarfile.TarFile, name: str, members: Sequence[Member], *, allow_large: bool
) -> InstalledModel:
    start = f"models/{name}/"
    own = [member for member in members if member.path.startswith(start)]
    with working_on(name) as staging:
        package = staging / "package"
        package.mkdir()
        for member in own:
            _extract(path, tar, member, package / member.path.removeprefix(start))
        manifest = read_manifest(package)
        if manifest.id != name:
            raise _corrupt(path, f"the package in {name} is {manifest.id}")
        refuse_large(manifest.id, manifest.parameters, allow_large=allow_large)
        signed: Mapping[str, str] = {member.path.removeprefix(start): member.sha256 for member in own}
        for file in manifest.files:
            present(package, file)
            if signed[file.path] != file.sha256:
                raise _corrupt(path, f"{file.path} of {name} is not what its manifest says")
        return install(package, manifest)


def _extract(path: Path, tar: tarfile.TarFile, member: Member, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    stream: Any = tar.extractfile(member.path)
    with target.open("wb") as out:
        if digest(stream, member.size, out) != member.sha256:
            raise _corrupt(path, f"{member.path} changed while it was read")


def _rest(path: Path, tar: tarfile.TarFile, members: Sequence[Member]) -> tuple[Path, ...]:
    """What is no model, together in one new folder."""
    rest = [member for member in members if not member.path.startswith("models/")]
    if not rest:
        return ()
    top = data_dir() / "imported"
    with disk.writing(top):
        top.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=top, prefix=".") as draft:
            for member in rest:
                _extract(path, tar, member, Path(draft) / "new" / member.path)
            target = top / re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip(".-")
            if target.exists():
                os.replace(target, Path(draft) / "old")
            os.replace(Path(draft) / "new", target)
    return tuple(target / member.path for member in rest)


def _corrupt(path: Path, why: str) -> ModelCorrupt:
    return ModelCorrupt(f"{path.name} is not a sound bundle", why=why, remedy="Get it again")
