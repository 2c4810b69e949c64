"""Layers of a long conversion that are done, kept on the disk: one that was interrupted goes on from there.

They are mapped, not held, so that what is done takes no memory that the system could not have back. What is
found there counts only if its hashes are those that were written.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from time import time
from typing import Final

import numpy as np

from edgeai.converters.blocks import Blocks
from edgeai.converters.decoder import Floats
from edgeai.errors import GateFailed
from edgeai.models.disk import hash_file, locked, writing
from edgeai.paths import cache_dir

__all__ = ["Done", "Halfway", "halfway"]

_PARTS: Final = ("codes", "scale", "offset")
_STATES: Final = "states.npy"
_FACTS: Final = "blocks.json"
_COSTS: Final = "costs"
_LONGEST_S: Final = 6 * 3600.0  # another process makes the same
_FORGOTTEN_S: Final = 30 * 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What came of one layer: by role its four-bit matrices, by group how its inputs were scaled."""

    blocks: Mapping[str, Blocks]
    scales: Mapping[str, Floats]


class Halfway:
    """One conversion's folder. Its layers are there from the first on, each whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def known(self) -> Iterator[Done]:
        """The layers that are done, if all are sound and the states behind the last one are there, too."""
        count = 0
        while self._place(count).is_dir():
            count += 1
        if all(_sound(self._place(n), with_states=n == count - 1) for n in range(count)):
            yield from (_read(self._place(number)) for number in range(count))
            return
        for number in range(count):  # so that it does not stand behind what is made anew
            shutil.rmtree(self._place(number), ignore_errors=True)

    def states(self, number: int) -> Floats:
        """What layer ``number``, the last that is known, makes of the text: (windows, tokens, n_embd)."""
        found: Floats = np.load(self._place(number) / _STATES)
        return found

    def keep(self, number: int, done: Done, states: Floats) -> Done:
        """Write the layer, and the states behind it; the same, mapped. Raises DiskFull."""
        place = self._place(number)
        draft = place.with_suffix(".part")
        with writing(self._folder):
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            for role, blocks in done.blocks.items():
                for part in _PARTS:
                    np.save(draft / f"{role}.{part}.npy", getattr(blocks, part))
            for group, scale in done.scales.items():
                np.save(draft / f"{group}.inputs.npy", scale)
            np.save(draft / _STATES, states)
            facts = {
                "blocks": {role: [blocks.bits, blocks.zero] for role, blocks in done.blocks.items()},
                "sha256": {path.name: hash_file(path) for path in sorted(draft.iterdir())},
            }
            (draft / _FACTS).write_text(json.dumps(facts), "utf-8")
            shutil.rmtree(place, ignore_errors=True)
            os.replace(draft, place)
        if number:
            (self._place(number - 1) / _STATES).unlink(missing_ok=True)
        return _read(place)

    def keep_costs(self, number: int, found: Mapping[str, Floats]) -> None:
        """Write what was measured up to layer ``number``, in place of what was before. Raises DiskFull."""
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            before = list(self._folder.glob(f"{_COSTS}.*"))
            draft = self._folder / "draft.npz"
            named = {f"_{key}": array for key, array in found.items()}  # "file" is a parameter of numpy's
            with draft.open("wb") as file:
                np.savez(file, **named)  # type: ignore[arg-type]  # its types take all for a flag
            os.replace(draft, self._folder / f"{_COSTS}.{number:04}.{hash_file(draft)}.npz")
            for path in before:
                path.unlink()

    def costs(self) -> tuple[int, Mapping[str, Floats]] | None:
        """The last layer that was measured, and what was found; None: none, or it is damaged."""
        for path in sorted(self._folder.glob(f"{_COSTS}.*"), reverse=True):
            _, number, sha256_, _ = path.name.split(".")
            if hash_file(path) == sha256_:
                with np.load(path) as found:
                    return int(number), {key.removeprefix("_"): found[key] for key in found}
        return None

    def _place(self, number: int) -> Path:
        return self._folder / f"layer-{number:04}"


@contextmanager
def halfway(facts: Mapping[str, object]) -> Iterator[Halfway]:
    """The folder of the conversion that these facts name, gone when it has come to its end.

    A missed gate is an end, too; only an interruption, or another error, leaves it, for a month. Raises
    StoreLocked when another process is at it for hours.
    """
    name = sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]
    folder = cache_dir() / "conversions" / name
    _forget(folder.parent)
    with locked(f"conversion-{name}", timeout_s=_LONGEST_S, on_wait=lambda: None):
        try:
            yield Halfway(folder)
        except GateFailed:
            _remove(folder)
            raise
        _remove(folder)


def _forget(conversions: Path) -> None:
    """Delete what nobody has gone on with for a month."""
    for folder in conversions.iterdir() if conversions.is_dir() else ():
        with suppress(OSError):
            if time() - folder.stat().st_mtime > _FORGOTTEN_S:
                shutil.rmtree(folder)


def _remove(folder: Path) -> None:
    with suppress(OSError):  # Windows deletes nothing that is mapped: the next conversion does
        shutil.rmtree(folder)


def _sound(place: Path, *, with_states: bool) -> bool:
    """Whether the layer's files are those that were written."""
    try:
        known = dict(json.loads((place / _FACTS).read_text("utf-8"))["sha256"])
        return all(
            hash_file(place / name) == digest
            for name, digest in known.items()
            if with_states or name != _STATES
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _read(place: Path) -> Done:
    facts = json.loads((place / _FACTS).read_text("utf-8"))
    blocks = {}
    for role, (bits, zero) in facts["blocks"].items():
        codes, scale, offset = (np.load(place / f"{role}.{part}.npy", mmap_mode="r") for part in _PARTS)
        blocks[role] = Blocks(codes=codes, scale=scale, offset=offset, bits=bits, zero=zero)
    scales = {path.name.partition(".")[0]: np.load(path) for path in sorted(place.glob("*.inputs.npy"))}
    return Done(blocks=blocks, scales=scales)
