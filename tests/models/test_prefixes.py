"""The files of warm prefixes: whole and unchanged, or not at all."""

import os
from pathlib import Path

import pytest

from edgeai.errors import DiskFull
from edgeai.models import prefixes

KEY = {"weights": "abc", "engine": "llamacpp 1"}
DATA = bytes(range(200))


def write(tokens: tuple[int, ...], key: dict[str, str] = KEY, most_bytes: int = 1 << 20) -> Path:
    prefixes.write(key, tokens, DATA, model="tiny", most_bytes=most_bytes)
    return prefixes.folder() / prefixes.name_of(key, tokens)


def read(key: dict[str, str] = KEY) -> list[tuple[tuple[int, ...], bytearray | None]]:
    return [(prefixes.read_tokens(found), prefixes.read(found)) for found in prefixes.kept(key)]


def test_what_was_written_is_read() -> None:
    """Tokens and data come back, for the same key only."""
    write((5, 6, 7))
    assert read() == [((5, 6, 7), bytearray(DATA))]
    assert read(KEY | {"engine": "llamacpp 2"}) == []


def test_no_damage_goes_unnoticed() -> None:
    """With any one byte changed, or any number missing, nothing is read as data."""
    path = write((5, 6, 7))
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert [data for _, data in read() if data is not None] == [], at
        path.write_bytes(whole[:at])
        assert read() == [], at
    path.write_bytes(whole + b"x")
    assert read() == []


def test_a_file_under_another_name_is_not_taken_for_it() -> None:
    """The name stands for the tokens: a renamed file has none."""
    path = write((5, 6, 7))
    path.rename(prefixes.folder() / prefixes.name_of(KEY, (5, 6, 8)))
    assert [tokens for tokens, _ in read()] == [()]


def test_space_is_bounded() -> None:
    """What has not been used for longest goes first; what is too large alone is refused."""
    size = write((1,)).stat().st_size
    os.utime(write((1,)), (1, 1))
    os.utime(write((2,)), (2, 2))
    write((3,), most_bytes=2 * size)
    assert sorted(tokens for tokens, _ in read()) == [(2,), (3,)]
    with pytest.raises(DiskFull, match="most_bytes"):
        write((4,), most_bytes=size - 1)


def test_what_another_version_computed_is_replaced() -> None:
    """Of the same weights and tokens only the latest library's file stays; other weights keep theirs."""
    old, other = write((1, 2)), write((1, 2), KEY | {"weights": "xyz"})
    write((1, 2), KEY | {"engine": "llamacpp 2"})
    assert (old.exists(), other.exists()) == (False, True)


def test_a_crash_leaves_nothing_for_long() -> None:
    """An unfinished file is no prefix, and an old one is deleted with the next write."""
    write((1,))
    draft = prefixes.folder() / "dead.1.draft"
    draft.write_bytes(b"half")
    os.utime(draft, (1, 1))
    assert len(list(prefixes.kept())) == 1
    write((2,))
    assert not draft.exists()


def test_clear_deletes_all() -> None:
    """And says how many there were; without a folder there are none."""
    assert prefixes.clear() == 0
    write((1,))
    write((2,))
    assert prefixes.clear() == 2
    assert list(prefixes.folder().iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_only_this_user_reads_it() -> None:
    """Neither the group nor others."""
    assert write((1,)).stat().st_mode & 0o777 == 0o600
