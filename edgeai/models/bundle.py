"""One signed file for machines without a network: models, calibrations, a profile, wheels.

A bundle is an uncompressed tar. Its first member, ``bundle.json``, lists all others with size and SHA-256;
its second, ``bundle.sig``, signs the first with Ed25519 (RFC 8032). What is not listed, or not as listed, is
refused before anything is written.
"""

import base64
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from edgeai.errors import ConfigError, MissingExtra, ModelNotFound
from edgeai.models import disk
from edgeai.models.package import MANIFEST
from edgeai.models.shelf import verify

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["CONTENTS", "KINDS", "PREFIX", "SIGNATURE", "Member", "new_key", "public_key", "write_bundle"]

CONTENTS, SIGNATURE = "bundle.json", "bundle.sig"
FORMAT = 1
PREFIX = b"edgeai bundle 1\n"
"""Goes before what is signed: a signature of anything else is none of a bundle."""
KINDS = ("models", "calibrations", "profiles", "wheels")
"""The folders of a bundle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file of a bundle: ``path`` in it with forward slashes, ``size`` in bytes."""

    path: str
    sha256: str
    size: int


def write_bundle(
    out: Path,
    models: Sequence[str | Path],
    key: Path,
    *,
    calibrations: Sequence[Path] = (),
    profiles: Sequence[Path] = (),
    wheels: Sequence[Path] = (),
) -> tuple[Member, ...]:
    """Write the packages (names, ids or folders) and files into one bundle, signed with the key in ``key``.

    The same content gives the same bytes. Raises ModelError's leaves, ConfigError, MissingExtra or DiskFull;
    a file that exists is replaced only when the new one is whole.
    """
    signer = _load_key(key)
    if out.suffix != ".edgeai":
        raise ConfigError(f"{out.name} does not end in .edgeai", remedy="Imports know a bundle by that")
    listed = list(_sources(models, {"calibrations": calibrations, "profiles": profiles, "wheels": wheels}))
    sources = dict(listed)
    if not sources:
        raise ConfigError("A bundle needs something in it", remedy="Name a model")
    if clash := next((name for name, path in listed if sources[name] != path), None):
        raise ConfigError(f"Two files would be {clash} in the bundle", remedy="Rename one")
    members = tuple(
        Member(path=name, sha256=disk.hash_file(path), size=path.stat().st_size)
        for name, path in sorted(sources.items())
    )
    rows = [{"path": m.path, "sha256": m.sha256, "size": m.size} for m in members]
    contents = (json.dumps({"format": FORMAT, "files": rows}, indent=1, sort_keys=True) + "\n").encode()
    signature = _signature(signer, contents)
    disk.check_room(out.parent, sum(m.size for m in members))
    part = out.with_name(f".{out.name}.part")
    with disk.writing(out.parent):
        try:
            _write(part, {CONTENTS: contents, SIGNATURE: signature}, members, sources)
            os.replace(part, out)
        finally:
            part.unlink(missing_ok=True)
    return members


def new_key(path: Path) -> str:
    """Make a private key, for its owner alone to read, and return its public half as text.

    Raises ConfigError when the file exists.
    """
    private = _ed25519().Ed25519PrivateKey.generate()
    from cryptography.hazmat.primitives import serialization

    text = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(text)
    except OSError as error:
        raise ConfigError(f"{path} cannot be made", why=error.strerror, remedy="Give another file") from error
    return public_key(path)


def public_key(path: Path) -> str:
    """The public half of the private key in a file, as the settings take it."""
    return base64.b64encode(_load_key(path).public_key().public_bytes_raw()).decode()


def _signature(signer: "Ed25519PrivateKey", contents: bytes) -> bytes:
    table = {
        "key": base64.b64encode(signer.public_key().public_bytes_raw()).decode(),
        "signature": base64.b64encode(signer.sign(PREFIX + contents)).decode(),
    }
    return (json.dumps(table, sort_keys=True) + "\n").encode()


def _sources(models: Sequence[str | Path], files: Mapping[str, Sequence[Path]]) -> Iterator[tuple[str, Path]]:
    """Names in the bundle, and the files they come from; packages are verified first."""
    for name in models:
        model = verify(name)
        assert model.folder is not None  # verify opens packages only
        listed = [MANIFEST, *(file.path for file in model.manifest.files)]
        extra = [p.name for p in model.folder.glob("proof.json")]
        for file in [*listed, *extra]:
            yield f"models/{model.id}/{file}", model.folder / file
    for kind, paths in files.items():
        for path in paths:
            if not path.is_file():
                raise ModelNotFound(f"There is no file {path}")
            yield f"{kind}/{path.name}", path


def _write(
    part: Path, heads: Mapping[str, bytes], members: Iterable[Member], sources: Mapping[str, Path]
) -> None:
    with tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in heads.items():
            tar.addfile(_info(name, len(content)), io.BytesIO(content))
        for member in members:
            with sources[member.path].open("rb") as stream:
                tar.addfile(_info(member.path, member.size), stream)


def _info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info


def _load_key(path: Path) -> "Ed25519PrivateKey":
    _ed25519()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{path} is not a private key", why=str(error), remedy="Make one: edgeai bundle --new-key FILE"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path} is not an Ed25519 key", remedy="Make one: edgeai bundle --new-key FILE")
    return key


def _ed25519() -> Any:  # noqa: ANN401  # a module
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise MissingExtra("Bundles need cryptography", extra="crypto", why=str(error)) from error
    return ed25519


def inside(path: str) -> PurePosixPath | None:
    """A member's path, if it is one below a known folder and nowhere else."""
    found = PurePosixPath(path)
    odd = found.is_absolute() or ".." in found.parts or "\\" in path or ":" in path or str(found) != path
    if odd or len(found.parts) < 2 or found.parts[0] not in KINDS:
        return None
    return found


def digest(stream: Any, size: int, out: Any = None) -> str | None:  # noqa: ANN401  # binary files
    """The SHA-256 of the next ``size`` bytes, copied to ``out`` if given; None if the stream ends before."""
    found, left = hashlib.sha256(), size
    while left:
        chunk = stream.read(min(disk.CHUNK, left))
        if not chunk:
            return None
        found.update(chunk)
        left -= len(chunk)
        if out is not None:
            out.write(chunk)
    return found.hexdigest()
