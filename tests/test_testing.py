"""What we ship for users' own tests."""

import _socket
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgeai import Edge, Policy, PrivacyViolation
from edgeai.testing import FakeCloud, FakeEngine, forbid_network


def test_a_forbidden_network_refuses_connections_and_lookups() -> None:
    """Each way out raises, and is in the list of attempts even when its error is swallowed."""
    with forbid_network() as attempts:
        with pytest.raises(PrivacyViolation):
            socket.create_connection(("127.0.0.1", 9))
        with pytest.raises(PrivacyViolation):
            socket.getaddrinfo("example.invalid", 80)
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
            pytest.raises(PrivacyViolation),
        ):
            datagrams.sendto(b"x", ("127.0.0.1", 9))
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen("http://127.0.0.1:9/", timeout=1)
    assert len(attempts) == 4


DATAGRAM = (socket.AF_INET, socket.SOCK_DGRAM)
WAYS_OUT: dict[str, Callable[[socket.socket], object]] = {
    "connect": lambda old: old.connect(("127.0.0.1", 9)),
    "connect_ex": lambda old: old.connect_ex(("127.0.0.1", 9)),
    "sendto": lambda old: old.sendto(b"x", ("127.0.0.1", 9)),
    "sendto with flags": lambda old: old.sendto(b"x", 0, ("127.0.0.1", 9)),
    "sendmsg": lambda old: old.sendmsg([b"x"], [], 0, ("127.0.0.1", 9)),
    "gethostbyname": lambda old: socket.gethostbyname("localhost"),
    "gethostbyname_ex": lambda old: socket.gethostbyname_ex("localhost"),
    "gethostbyaddr": lambda old: socket.gethostbyaddr("127.0.0.1"),
    "getaddrinfo": lambda old: socket.getaddrinfo("localhost", 80),
    "getnameinfo": lambda old: socket.getnameinfo(("127.0.0.1", 80), 0),
    "_socket": lambda old: _socket.socket.sendto(old, b"x", ("127.0.0.1", 9)),
}


@pytest.mark.parametrize("way", WAYS_OUT.values(), ids=WAYS_OUT)
def test_no_way_out_is_open(way: Callable[[socket.socket], object]) -> None:
    """Also a socket made before the block, datagrams, and each kind of lookup are refused, in every block."""
    with socket.socket(*DATAGRAM) as old, forbid_network() as outer, forbid_network() as inner:
        with pytest.raises(PrivacyViolation):
            way(old)
        assert len(inner) == 1
    assert outer == inner


def test_other_threads_are_refused_too() -> None:
    """The block holds for the process."""
    with forbid_network() as attempts, ThreadPoolExecutor(1) as pool, pytest.raises(PrivacyViolation):
        pool.submit(socket.gethostbyname, "localhost").result()
    assert attempts == ["look up 'localhost'"]


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no such sockets")
def test_sockets_of_this_machine_stay_free(tmp_path: Path) -> None:
    """Processes may talk to each other."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server, forbid_network() as attempts:
        server.bind(path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.sendto(b"x", path)
            client.connect(path)
        assert server.recv(1) == b"x"
    assert attempts == []


def test_the_network_is_free_again_afterwards() -> None:
    """The guard ends with its block."""
    with forbid_network():
        pass
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()


def test_the_fakes_remember_what_they_were_asked() -> None:
    """An app's test can look at both sides of its query."""
    engine, cloud = FakeEngine(probability=0.1), FakeCloud("42")
    policy = Policy(privacy="allow", min_score=0.5)
    with Edge(engine=engine, cloud=cloud, policy=policy, ledger=False) as edge:
        assert edge.ask("Why?").text == "42"
    assert engine.requests[0].messages[0].text == "Why?"
    assert cloud.received[0].messages[0].text == "Why?"
