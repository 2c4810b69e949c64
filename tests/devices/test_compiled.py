"""Which compiled models are kept, where there is not room for all."""

import os
from pathlib import Path

import pytest

from edgeai.devices import compiled


def blob(digest: str, size: int, used: float) -> Path:
    """A blob of this size, last used at this time."""
    folder = compiled.folder_of(digest)
    folder.mkdir(parents=True)
    (folder / compiled.CONTEXT).write_bytes(bytes(size))
    os.utime(folder, (used, used))
    return folder


@pytest.mark.parametrize(
    ("room", "left"), [(100, {"a", "b", "c"}), (70, {"b", "c"}), (10, {"c"}), (0, {"c"})]
)
def test_what_was_not_used_for_longest_goes_first(room: int, left: set[str]) -> None:
    """The newest stays, whatever it takes."""
    for digest, used in (("a", 1.0), ("b", 2.0), ("c", 3.0)):
        blob(digest, 30, used)
    compiled.make_room("c", room)
    assert {path.name for path in compiled.folder_of("c").parent.iterdir()} == left


def test_what_is_used_stays() -> None:
    """To look at a blob is to use it."""
    old, new = blob("old", 30, 1.0), blob("new", 30, 2.0)
    assert compiled.is_intact("old", compiled.listed("old"))
    blob("newest", 30, 3.0)
    compiled.make_room("newest", 70)
    assert old.exists()
    assert not new.exists()
