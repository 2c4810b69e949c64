"""What crosses the pipe arrives as it was, and nonsense is found out."""

import io
import json
import struct
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeai import errors
from edgeai.engines.generation import Finished
from edgeai.engines.wire import WireError, pack, read, unpack
from edgeai.errors import BothFailed, ConfigError, ContextOverflow, EdgeError, MissingExtra
from edgeai.types import Image, LabelScores, Message, Request, Sampling, Text, Token, Tool, ToolCall

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def crossed(value: object) -> Any:  # noqa: ANN401  # as it was
    return read(io.BytesIO(pack(value)))


@settings(max_examples=50)
@given(values)
def test_values_arrive_as_they_were(value: object) -> None:
    """Types included: a tuple stays a tuple, bytes stay bytes."""
    assert crossed(value) == value


REQUEST = Request(
    messages=(
        Message("system", "Be \ud800 brief.", private=True, label="health"),
        Message("user", [Text("What is this?", label="a"), Image(data=b"\x89PNG", private=True)]),
        Message("assistant", tool_calls=(ToolCall(name="look", arguments={"at": [1, 2.5, None]}),)),
        Message("tool", "a cat", tool_call_id="call_0"),
    ),
    sampling=Sampling(temperature=0.5, seed=2**63),
    schema={"type": "object", "enum": [1, {"a": ()}]},
    tools=(Tool(name="look", description="d"),),
    examples=(("a", "b"),),
    hold=3,
)


def test_our_values_arrive_as_they_were() -> None:
    """A request with everything in it, infinities, and a mapping that pickle would refuse."""
    assert crossed(REQUEST) == REQUEST
    frozen = replace(REQUEST, schema=MappingProxyType({"type": "object"}))
    assert crossed(frozen).schema == {"type": "object"}
    finished = Finished(reason="stop", n_prompt=3, labels=LabelScores(logprobs=(-1.0, float("-inf"))))
    assert crossed([finished]) == [finished]


def test_a_users_own_message_arrives_as_a_message() -> None:
    """The other end knows no class of the app's."""

    class Mine(Message):
        pass

    assert crossed(Mine("user", "Hi")) == Message("user", "Hi")


def test_hidden_states_arrive_bit_for_bit() -> None:
    """Also one that is not contiguous; and what arrives is the reader's own."""
    hidden = np.linspace(-1, 1, 64, dtype=np.float32)[::2]
    token = Token(id=1, text="é", logprob=-0.1, entropy=0.3, margin=0.7, step_s=1e-9, hidden=hidden)
    back = crossed(["tokens", [[1, [token, replace(token, hidden=None)]]]])[1][0][1]
    assert back == [token, replace(token, hidden=None)]
    np.testing.assert_array_equal(back[0].hidden, hidden)
    back[0].hidden[0] = 0
    matrix = np.zeros((0, 5), np.float64)
    assert crossed(matrix).shape == (0, 5)


LEAVES = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, EdgeError) and kind is not BothFailed
]


@pytest.mark.parametrize("kind", LEAVES)
def test_errors_arrive_as_the_same_class(kind: type[EdgeError]) -> None:
    """With what, why and remedy, and so with the same words."""
    error = kind("It broke", why="it was old") if kind is not ContextOverflow else kind("It broke")
    back = crossed(error)
    assert type(back) is kind
    assert str(back) == str(error)
    assert vars(back) == vars(error)


def test_what_an_error_knows_arrives_too() -> None:
    """Token counts and the extra's name."""
    back = crossed(ContextOverflow("Too long", n_prompt=9, n_ctx=8))
    assert (back.n_prompt, back.n_ctx) == (9, 8)
    assert crossed(MissingExtra("No llama", extra="llama")).extra == "llama"


def test_what_cannot_be_sent_is_refused() -> None:
    """An object of the app's in a schema, before anything was sent."""
    with pytest.raises(ConfigError, match="object cannot be sent"):
        pack(replace(REQUEST, schema={"default": object()}))


NONSENSE: list[object] = [
    {"bytes": [0, 5]},
    {"bytes": [-1, 1]},
    {"array": [0, 0, "|O", [1]]},
    {"array": [0, 0, "<f4", [1 << 40]]},
    {"array": [0, 0, "<f4", [-1, -1]]},
    {"error": ["SystemExit", {"what": "x"}]},
    {"error": ["EngineError", {}]},
    {"Token": [1, 2]},
    {"Token": [1, 2, 3, 4, 5, 6, None]},
    {"Token": ["a", "text", 0, 0, 0, 0, None]},
    {"eval": "1"},
    {"map": [[[1], 2]]},
    {},
    {"a": 1, "b": 2},
]


@pytest.mark.parametrize("message", NONSENSE, ids=str)
def test_nonsense_is_found_out(message: object) -> None:
    """What a process under somebody else's control may say ends in one error."""
    with pytest.raises(WireError):
        unpack(json.dumps(message).encode(), b"")


def test_bytes_that_are_no_frame_are_found_out() -> None:
    """Text that is not JSON, endless nesting, sizes beyond reason; and half a frame is an end."""
    for text in (b"\xff", b"{", b"[" * 100_000):
        with pytest.raises(WireError):
            unpack(text, b"")
    with pytest.raises(WireError, match="large"):
        read(io.BytesIO(struct.pack("<II", 1 << 31, 0)))
    for part in (b"", b"\x01", pack("hello")[:-1]):
        with pytest.raises(EOFError):
            read(io.BytesIO(part))


@given(st.binary(max_size=64))
def test_any_bytes_are_a_message_an_end_or_nonsense(data: bytes) -> None:
    """Nothing else can come out of a broken pipe's end."""
    with suppress(EOFError, WireError):
        read(io.BytesIO(data))
