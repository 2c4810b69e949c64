"""What we ship for users' own tests."""

import socket
import urllib.error
import urllib.request

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
