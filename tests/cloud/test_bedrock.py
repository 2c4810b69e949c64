"""Amazon's signature and framing, against Amazon's own library."""

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as TheirCredentials
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from edgeai.cloud import aws, open_cloud
from edgeai.cloud.bedrock import Bedrock
from edgeai.cloud.sigv4 import Credentials, signed
from edgeai.errors import CloudAuth, CloudProtocol, ConfigError, MissingExtra
from edgeai.net.eventstream import FrameDecoder
from edgeai.net.sse import MAX_EVENT
from edgeai.types import Message, Released, Sampling
from tests.cloud.frames import frame

FRAMES = [
    frame({"delta": {"text": "Grüße, 世界"}}, "contentBlockDelta"),
    frame({"stopReason": "end_turn"}, "messageStop"),
    frame({"message": "slow down"}, "throttlingException", "exception"),
]


@pytest.mark.parametrize("token", ["", "temporary/token=="])
@pytest.mark.parametrize(
    "model", ["amazon.nova-lite-v1:0", "arn:aws:bedrock:eu-west-1:1:inference-profile/x.y"]
)
def test_signature(model: str, token: str) -> None:
    """Amazon's library signs the same request with the same words."""
    cloud = Bedrock(model, region="eu-west-1")
    body = b'{"messages":[]}'
    request = AWSRequest("POST", cloud.endpoint, {"content-type": "application/json"}, body)
    SigV4Auth(TheirCredentials("AKIA", "s3cr3t", token or None), "bedrock", "eu-west-1").add_auth(request)
    now = datetime.strptime(request.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    who = Credentials(access_key="AKIA", secret_key="s3cr3t", token=token)
    ours = dict(signed(cloud.endpoint, body, who, region="eu-west-1", service="bedrock", now=now))
    assert ours["Authorization"] == request.headers["Authorization"]
    assert ours["x-amz-date"] == request.headers["X-Amz-Date"]
    assert ours.get("x-amz-security-token", "") == token


def test_secrets_are_not_shown() -> None:
    """Neither the secret key nor the token is in a repr."""
    who = Credentials(access_key="AKIA", secret_key="s3cr3t", token="t0k3n")
    shown = f"{who!r} {Bedrock('m', region='r', credentials=who)!r}"
    assert "s3cr3t" not in shown
    assert "t0k3n" not in shown


def test_region_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a region there is no address; the environment's is taken."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="region"):
        Bedrock("m")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-2")
    assert (
        Bedrock("a:b").endpoint
        == "https://bedrock-runtime.us-east-2.amazonaws.com/model/a%3Ab/converse-stream"
    )


@given(st.lists(st.integers(0, 10_000)))
def test_frames(cuts: list[int]) -> None:
    """Cut anywhere, the frames give what Amazon's own parser reads."""
    data = b"".join(FRAMES)
    edges = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    decoder, theirs = FrameDecoder(), EventStreamBuffer()
    theirs.add_data(data)
    ours = [event for a, b in pairwise(edges) for event in decoder.feed(data[a:b])]
    assert decoder.end() == []
    assert [event.data.encode() for event in ours] == [message.payload for message in theirs]
    assert [event.event for event in ours] == [
        "contentBlockDelta",
        "messageStop",
        "exception:throttlingException",
    ]
    assert json.loads(ours[0].data) == {"delta": {"text": "Grüße, 世界"}}


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :]


@given(st.integers(0, len(FRAMES[0]) - 1))
def test_a_flipped_bit_is_found(at: int) -> None:
    """No damaged message is taken for a good one."""

    def read() -> None:
        decoder = FrameDecoder()
        decoder.feed(_flip(FRAMES[0], at))
        decoder.end()

    with pytest.raises(CloudProtocol):
        read()


def test_limits() -> None:
    """A message that claims to be huge is refused at once, an answer cut inside one at its end."""
    huge = frame({"text": "x" * MAX_EVENT}, "contentBlockDelta")
    with pytest.raises(CloudProtocol, match="longer than"):
        FrameDecoder().feed(huge[:12])
    decoder = FrameDecoder()
    assert decoder.feed(FRAMES[0][:-1]) == []
    with pytest.raises(CloudProtocol, match="broke off"):
        decoder.end()


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Amazon's settings, with a key, a program that tells one, and a profile of neither."""
    told = {"Version": 1, "AccessKeyId": "AKIATOLD", "SecretAccessKey": "t0ld", "SessionToken": "t0k3n"}
    program = tmp_path / "tell.py"
    program.write_text(f"print({json.dumps(json.dumps(told))})")
    settings = tmp_path / "config"
    settings.write_text(
        "[profile kept]\nregion = eu-north-1\naws_access_key_id = AKIAKEPT\naws_secret_access_key = k3pt\n"
        f"[profile told]\nregion = eu-west-3\ncredential_process = {sys.executable} {program}\n"
        "[profile signed]\nregion = eu-west-3\nsso_start_url = https://x.invalid\nsso_region = eu-west-3\n"
        "sso_account_id = 1\nsso_role_name = r\n"
    )
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(settings))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    aws._session.cache_clear()
    yield
    aws._session.cache_clear()


ASKED = Released(messages=(Message("user", "q"),), max_tokens=5, sampling=Sampling())


def authorization(cloud: Bedrock) -> str:
    """Who says to ask, in the headers that would be sent."""
    headers, _ = asyncio.run(cloud._proof("", b"{}"))
    return dict(headers)["Authorization"]


@pytest.mark.usefixtures("profiles")
def test_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile gives region and key, by its settings or by a program; it goes before other keys."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "3nv")
    assert "AKIAENV" in authorization(Bedrock("m", region="eu-west-1"))
    kept = Bedrock("m", profile="kept")
    assert "eu-north-1" in kept.endpoint
    assert "AKIAKEPT" in authorization(kept)
    monkeypatch.setenv("AWS_PROFILE", "told")
    assert "AKIATOLD" in authorization(Bedrock("m"))
    assert "eu-west-3" in open_cloud("bedrock:m").endpoint


@pytest.mark.usefixtures("profiles")
def test_profiles_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """No such profile, nobody signed in, no library: each says so, and nothing is sent."""
    with pytest.raises(CloudAuth, match="nosuch"):
        Bedrock("m", profile="nosuch")
    signed_out = Bedrock("m", profile="signed")
    with pytest.raises(CloudAuth, match="sso") as caught:
        asyncio.run(anext(signed_out.stream(ASKED)))
    assert caught.value.sends == 0
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    with pytest.raises(MissingExtra, match="bedrock"):
        Bedrock("m", profile="kept")
