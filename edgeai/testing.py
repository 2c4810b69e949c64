"""For the tests of apps that use edgeai: an engine and a cloud without a model or a network, and a switch
that forbids the network.

```python
edge = Edge(engine=FakeEngine("Paris."), cloud=FakeCloud("Lyon."), policy=Policy(...), ledger=False)
```
"""

import _socket
import asyncio
import contextlib
import functools
import hashlib
import json
import math
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from edgeai.choose import CONTENT_FREE
from edgeai.cloud import CloudEnd, CloudText, Piece
from edgeai.economics import Price
from edgeai.engines import EngineInfo, Generation, OnState
from edgeai.engines.generation import Finished
from edgeai.errors import CloudError, ContextOverflow, EngineError, PrivacyViolation
from edgeai.types import Priority, Released, Request, Token, Usage, Warmed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["FakeCloud", "FakeEngine", "assert_no_egress", "forbid_network"]

N_EMBD = 16


class FakeEngine:
    """An engine that says a given text, word by word, each word with the given probability.

    ``fails_after`` pieces it raises ``error``; ``delay_s`` is the time a piece takes; ``n_ctx`` bounds the
    prompt, counted in words. It keeps the requests it was asked in ``requests``.
    """

    def __init__(
        self,
        text: str = "A fake answer.",
        *,
        probability: float = 0.9,
        delay_s: float = 0.0,
        error: EngineError | None = None,
        fails_after: int = 0,
        n_ctx: int = 2048,
    ) -> None:
        self._pieces = pieces(text)
        self._probability, self._delay_s = probability, delay_s
        self._error, self._fails_after = error, fails_after
        self._n_ctx = n_ctx
        self.requests: list[Request] = []

    @property
    def info(self) -> EngineInfo:
        """A made-up description."""
        return EngineInfo(
            engine="fake",
            model="fake",
            parameters=0,
            n_ctx=self._n_ctx,
            n_ctx_train=self._n_ctx,
            n_vocab=0,
            n_embd=N_EMBD,
            quantization="none",
            template_hash="",
        )

    def stream(self, request: Request) -> Generation:
        """Say the text, from a thread of its own."""
        self.requests.append(request)
        n_prompt = self.count_prompt(request)
        if n_prompt > self._n_ctx:
            raise ContextOverflow(
                f"The prompt has {n_prompt} words, the context {self._n_ctx}",
                n_prompt=n_prompt,
                n_ctx=self._n_ctx,
            )
        generation = Generation()
        threading.Thread(target=self._speak, args=(generation, request, n_prompt), daemon=True).start()
        return generation

    def _speak(self, generation: Generation, request: Request, n_prompt: int) -> None:
        said = self._pieces[: request.max_tokens]
        for i, piece in enumerate(said):
            if self._error is not None and i == self._fails_after:
                generation.fail(self._error)
                return
            time.sleep(self._delay_s)
            while not (generation.wanted or generation.cancelled):
                time.sleep(0.001)
            if generation.cancelled:
                return
            generation.put(fake_token(piece, self._probability, self._delay_s, i))
        if self._error is not None and self._fails_after >= len(said):
            generation.fail(self._error)
        cut = len(said) < len(self._pieces)
        generation.finish(Finished(reason="length" if cut else "stop", n_prompt=n_prompt))

    def score(
        self,
        prompt: str,
        continuations: Sequence[str],
        *,
        cancelled: Callable[[], bool] = lambda: False,
        on_state: OnState | None = None,
        adapter: str | None = None,
        priority: Priority = "interactive",
    ) -> tuple[float, ...]:
        """The first continuation that contains the text, or else the first, is the likeliest.

        To an input without content all are. It has no hidden states, and says the same under any adapter.
        """
        if prompt.rpartition("\n")[0].endswith(tuple(f": {nothing}" for nothing in CONTENT_FREE)):
            return (-1.0,) * len(continuations)
        text = "".join(self._pieces).strip()
        best = next((i for i, c in enumerate(continuations) if text and text in c), 0)
        return tuple(0.0 if i == best else -3.0 for i in range(len(continuations)))

    def embed(
        self, texts: Sequence[str], *, adapter: str | None = None, priority: Priority = "interactive"
    ) -> "NDArray[np.float32]":
        """Unit vectors that depend on the text alone."""
        import numpy as np

        rows = [np.frombuffer(hashlib.sha256(t.encode()).digest()[:N_EMBD], np.uint8) for t in texts]
        vectors = np.stack(rows).astype(np.float32) + 1
        unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit

    def tokenize(self, text: str, *, special: bool = False) -> tuple[int, ...]:
        """One token a word."""
        return tuple(range(len(text.split())))

    def count_prompt(self, request: Request) -> int:
        """The words of all messages."""
        return sum(len(message.text.split()) for message in request.messages)

    def warm(self, request: Request, *, most_bytes: int) -> Warmed:
        """Nothing to compute, and nothing is kept."""
        n_tokens = self.count_prompt(request)
        return Warmed(tokens=n_tokens, cached_tokens=n_tokens, kept_bytes=0)

    def close(self) -> None:
        """Nothing to free."""


class FakeCloud:
    """A cloud that says a given text, piece by piece, without a network.

    ``fails_after`` pieces it raises ``error``; ``delay_s`` passes before each piece. It keeps what it was
    sent in ``received``.
    """

    def __init__(
        self,
        text: str = "A fake cloud's answer.",
        *,
        delay_s: float = 0.0,
        error: CloudError | None = None,
        fails_after: int = 0,
        price: Price | None = Price(prompt_usd=1.0, completion_usd=2.0),
    ) -> None:
        self._pieces = pieces(text)
        self._delay_s, self._error, self._fails_after = delay_s, error, fails_after
        self._price = price
        self.received: list[Released] = []

    model = "fake-cloud"
    endpoint = "https://cloud.invalid/v1"

    @property
    def price(self) -> Price | None:
        """US dollars per million tokens."""
        return self._price

    def encode(self, released: Released) -> bytes:
        """The messages as JSON."""
        return json.dumps([[m.role, m.text] for m in released.messages]).encode()

    async def stream(self, released: Released) -> AsyncIterator[Piece]:
        """Say the text."""
        self.received.append(released)
        for i, piece in enumerate(self._pieces):
            if self._error is not None and i == self._fails_after:
                raise self._error
            await asyncio.sleep(self._delay_s)
            yield CloudText(piece)
        if self._error is not None:
            raise self._error
        words = sum(len(message.text.split()) for message in released.messages)
        usage = Usage(prompt_tokens=words, completion_tokens=len(self._pieces))
        yield CloudEnd(finish_reason="stop", usage=usage)


# The attempts of each open `forbid_network` block; no block: the network is free.
_forbidding: list[list[str]] = []
_guard = threading.Lock()
_FORBIDDEN = {
    "socket.connect": "connect",
    "socket.sendto": "send to",
    "socket.sendmsg": "send to",
    "socket.getaddrinfo": "look up",
    "socket.gethostbyname": "look up",
    "socket.gethostbyaddr": "look up",
    "socket.getnameinfo": "look up",
}


@contextlib.contextmanager
def forbid_network() -> Iterator[list[str]]:
    """Within this block every attempt to connect, to send a datagram or to look up a name is refused.

    It raises PrivacyViolation, in all threads and for sockets made before the block too. Gives the list of
    the attempts, which also holds those whose error was swallowed. Sockets between processes of this machine
    (AF_UNIX) are left alone, loopback addresses are not. What a C library does by itself is not seen.
    """
    with _guard:
        _install_hook()
        attempts: list[str] = []
        _forbidding.append(attempts)
    try:
        yield attempts
    finally:
        with _guard:
            # By identity: two blocks with the same attempts are equal.
            _forbidding[:] = [block for block in _forbidding if block is not attempts]


# The releases that each open `assert_no_egress` block has seen.
_watching: list[list[str]] = []


@contextlib.contextmanager
def assert_no_egress() -> Iterator[None]:
    """Within this block no query may leave the device; at its end an AssertionError names what tried to.

    It refuses the network as `forbid_network` does, and every release to a cloud, also to a `FakeCloud`,
    before a byte is handed over; an attempt whose error was swallowed fails the block all the same.
    """
    releases: list[str] = []
    with forbid_network() as attempts:
        with _guard:
            _watching.append(releases)
        try:
            yield
        finally:
            with _guard:
                _watching[:] = [block for block in _watching if block is not releases]
    if tried := [*releases, *attempts]:
        raise AssertionError(f"Queries tried to leave the device: {'; '.join(tried)}")


@functools.cache
def _install_hook() -> None:
    sys.addaudithook(_refuse)  # it stays for the life of the process


def _refuse(event: str, args: tuple[Any, ...]) -> None:
    if event == "edgeai.egress" and _watching:
        for releases in tuple(_watching):
            releases.append(f"{args[1]} bytes to {args[0]}")
        raise PrivacyViolation(f"A query would leave the device, to {args[0]}, in a block where none may")
    if not _forbidding or event not in _FORBIDDEN:
        return
    subject, *rest = args
    if isinstance(subject, _socket.socket):
        if subject.family not in (socket.AF_INET, socket.AF_INET6):
            return
        subject = rest[0]
    what = f"{_FORBIDDEN[event]} {subject!r}"
    for attempts in tuple(_forbidding):
        attempts.append(what)
    raise PrivacyViolation(f"The network was tried while it is forbidden: {what}")


def pieces(text: str) -> list[str]:
    """The text cut after each space."""
    return [word for word in text.replace(" ", " \0").split("\0") if word]


def fake_token(text: str, probability: float, step_s: float = 0.0, number: int = 0) -> Token:
    """A token with this probability."""
    logprob = math.log(probability) if probability > 0 else -100.0
    return Token(
        id=number,
        text=text,
        logprob=logprob,
        entropy=-probability * logprob,
        margin=probability,
        step_s=step_s,
    )
