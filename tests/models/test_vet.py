"""Unknown files are tried in a child process, once."""

import subprocess
from pathlib import Path

import pytest

from edgeai.engines.llamacpp.vet import REFUSED
from edgeai.errors import ModelCorrupt
from edgeai.models import vet as vetting
from edgeai.models.vet import vet


def test_a_sound_file_is_tried_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp really loads it in a child; the verdict is kept for the next time."""
    vet(tiny)
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("tried again"))
    vet(tiny)


def test_the_catalogs_files_need_no_trial(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hash of the catalog is enough."""
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("tried"))
    vet(model_path)


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("import os; os.abort()", "died with status"),
        ("import time; time.sleep(60)", "did not end within 1 s"),
    ],
)
def test_a_file_that_breaks_the_child_is_refused(tiny: Path, program: str, why: str) -> None:
    """A crash or a hang of the child is ModelCorrupt here, each time."""
    for _ in range(2):
        with pytest.raises(ModelCorrupt, match=why):
            vet(tiny, child=("-c", program), timeout_s=1)


def test_an_orderly_refusal_is_left_to_the_engine(tiny: Path) -> None:
    """A file that llama.cpp says no to is let through, but not remembered as good."""
    assert REFUSED == vetting.REFUSED
    vet(tiny, child=("-c", f"raise SystemExit({REFUSED})"))
    with pytest.raises(ModelCorrupt):
        vet(tiny, child=("-c", "import os; os.abort()"))


def test_a_damaged_header_never_reaches_the_child(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The header is read first."""
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("tried"))
    tiny.write_bytes(tiny.read_bytes()[:5000])
    with pytest.raises(ModelCorrupt):
        vet(tiny)
