"""The product for asyncio: as `edgeai.edge`, with ``await``. Loaded on first use, as asyncio is not light."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, overload

from edgeai.call import Call
from edgeai.cloud import Cloud
from edgeai.edge import DEFAULT_MODEL, MOST_WARM_BYTES, Edge, Turns
from edgeai.engines import Engine, EngineInfo
from edgeai.errors import Cancelled, ConfigError
from edgeai.isolated import IsolationName
from edgeai.load import EngineName
from edgeai.options import check_listener, warm_request
from edgeai.policy import Policy
from edgeai.session import Preview, Session
from edgeai.standing import DriftAlarm
from edgeai.types import (
    FIELDS,
    Answer,
    CallOptions,
    Choice,
    CommonOptions,
    Done,
    Event,
    Extraction,
    JsonSchema,
    Message,
    Priority,
    Prompt,
    Tool,
    Warmed,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgeai.devices.profiles import Goal
    from edgeai.ledger import Ledger

M = TypeVar("M")


class AsyncStream:
    """As `Stream`, for ``async for``."""

    def __init__(self, call: Call, on_done: Callable[[Answer], None] = lambda answer: None) -> None:
        self._call, self._on_done = call, on_done
        self._answer: Answer | None = None
        self._woken = asyncio.Event()
        self._begun = False
        self._events: deque[Event] = deque()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        try:
            if not self._begun:
                await self._begin()
            while not self._events:
                if failure := self._call.take_failure():
                    raise failure
                if self._call.done:
                    raise StopAsyncIteration
                await self._wait(self._call.wait_s())
                self._woken.clear()
                self._events.extend(self._call.step())
        except BaseException:
            self._call.close()
            raise
        event = self._events.popleft()
        if isinstance(event, Done):
            self._answer = event.answer
            self._on_done(event.answer)
        return event

    async def _begin(self) -> None:
        self._begun = True
        loop, woken = asyncio.get_running_loop(), self._woken  # no reference to self: it must stay droppable

        def wake() -> None:
            with suppress(RuntimeError):  # the loop has been closed, and nobody waits any more
                loop.call_soon_threadsafe(woken.set)

        # Opening tokenizes the prompt: milliseconds that other tasks should not wait for.
        begun = asyncio.ensure_future(asyncio.to_thread(self._call.begin, wake))
        try:
            self._events.extend(await asyncio.shield(begun))
        except asyncio.CancelledError:
            await asyncio.wait([begun])  # closing while the other thread still opens would leak a side
            raise

    async def _wait(self, wait_s: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._woken.wait()

    async def answer(self) -> Answer:
        """Run to the end and return the answer, also when that was read before."""
        while self._answer is None and await anext(self, None) is not None:
            pass
        if self._answer is None:
            raise Cancelled("The stream was closed before its end")
        return self._answer

    def cancel(self) -> None:
        """End the query, from any thread or task."""
        self._call.stop()

    async def aclose(self) -> None:
        """End the query; no further events."""
        self._events.clear()
        self._call.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        self._call.close()


class AsyncEdge:
    """As `Edge`, with ``await``. ``async with`` loads the model without blocking the loop."""

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        *,
        engine: EngineName | Engine = "auto",
        n_ctx: int | None = None,
        threads: int | None = None,
        profile: str = "auto",
        goal: "Goal" = "speed",
        device: str = "auto",
        allow_fallback: bool = False,
        parallel: int | None = None,
        speculate: bool = True,
        draft: str | Path | None = None,
        cloud: str | Cloud | Sequence[str | Cloud] | None = None,
        policy: Policy = Policy(),
        ledger: "bool | str | Path | Ledger" = True,
        allow_large: bool = False,
        isolation: IsolationName = "auto",
        isolation_memory_bytes: int | None = None,
        isolation_limit_s: float | None = None,
        adapters: Mapping[str, str | Path] = MappingProxyType({}),
    ) -> None:
        self._open = lambda: Edge(
            model,
            engine=engine,
            n_ctx=n_ctx,
            threads=threads,
            profile=profile,
            goal=goal,
            device=device,
            allow_fallback=allow_fallback,
            parallel=parallel,
            speculate=speculate,
            draft=draft,
            cloud=cloud,
            policy=policy,
            ledger=ledger,
            allow_large=allow_large,
            isolation=isolation,
            isolation_memory_bytes=isolation_memory_bytes,
            isolation_limit_s=isolation_limit_s,
            adapters=adapters,
        )
        self._edge: Edge | None = None
        self._opened = False

    async def __aenter__(self) -> Self:
        if self._opened:
            raise ConfigError("The AsyncEdge was opened already", remedy="Make another one for another block")
        self._opened = True
        opening = asyncio.ensure_future(asyncio.to_thread(self._open))
        try:
            self._edge = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_unwanted)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End all queries and free the model's memory."""
        if self._edge is not None:
            await asyncio.to_thread(self._edge.close)

    @property
    def _session(self) -> Session:
        if self._edge is None:
            raise ConfigError(
                "The AsyncEdge is not open", remedy="Use it as `async with AsyncEdge(…) as edge:`"
            )
        return self._edge._session

    async def ask(self, prompt: Prompt, **options: Unpack[CallOptions]) -> Answer:
        """As `Edge.ask`."""
        return await self.stream(prompt, **options).answer()

    def stream(self, prompt: Prompt, **options: Unpack[CallOptions]) -> AsyncStream:
        """As `Edge.stream`, for ``async for``."""
        return AsyncStream(self._session.question(prompt, options))

    def on_drift(self, listener: Callable[[DriftAlarm], None]) -> None:
        """As `Edge.on_drift`; ``listener`` is called in a thread, not on the loop."""
        self._session.contracts.listeners.append(check_listener(listener))

    def chat(self, system: str | None = None) -> "AsyncChat":
        """As `Edge.chat`."""
        return AsyncChat(self, Turns(system))

    async def choose(
        self,
        prompt: Prompt,
        choices: Sequence[str],
        *,
        examples: Sequence[tuple[str, str]] = (),
        fields: tuple[str, str] = FIELDS,
        **options: Unpack[CommonOptions],
    ) -> Choice:
        """As `Edge.choose`."""
        call, classifier = self._session.classification(prompt, choices, examples, options, fields)
        answer = await AsyncStream(call).answer()
        return Choice(label=answer.text, probabilities=classifier.probabilities, answer=answer)

    @overload
    async def extract(
        self, prompt: Prompt, schema: type[M], **options: Unpack[CommonOptions]
    ) -> Extraction[M]: ...
    @overload
    async def extract(
        self, prompt: Prompt, schema: JsonSchema, **options: Unpack[CommonOptions]
    ) -> Extraction[Any]: ...
    async def extract(
        self, prompt: Prompt, schema: type[M] | JsonSchema, **options: Unpack[CommonOptions]
    ) -> Extraction[M] | Extraction[Any]:
        """As `Edge.extract`."""
        call, read = self._session.extraction(prompt, schema, options)
        answer = await AsyncStream(call).answer()
        return Extraction(value=read(answer), answer=answer)

    async def embed(
        self, texts: Sequence[str], *, adapter: str | None = None, priority: Priority = "interactive"
    ) -> "NDArray[np.float32]":
        """As `Edge.embed`."""
        return await asyncio.to_thread(self._session.embed, texts, adapter, priority)

    async def warm(
        self,
        system: str | None = None,
        messages: Sequence[Message] = (),
        *,
        tools: Sequence[Tool] = (),
        adapter: str | None = None,
        most_bytes: int = MOST_WARM_BYTES,
    ) -> Warmed:
        """As `Edge.warm`."""
        request = warm_request(system, messages, tools, adapter)
        return await asyncio.to_thread(self._session.engine.warm, request, most_bytes=most_bytes)

    async def wait_for_audits(self, timeout_s: float | None = None) -> None:
        """As `Edge.wait_for_audits`."""
        await asyncio.to_thread(self._session.audits.wait, timeout_s)

    def preview(
        self,
        prompt: Prompt,
        *,
        choices: Sequence[str] = (),
        examples: Sequence[tuple[str, str]] = (),
        **options: Unpack[CallOptions],
    ) -> Preview:
        """As `Edge.preview`; it waits for nothing."""
        return self._session.preview(prompt, choices, examples, options)

    @property
    def info(self) -> EngineInfo:
        """What the loaded model is."""
        return self._session.engine.info


def _close_unwanted(opening: "asyncio.Future[Edge]") -> None:
    """Nobody waits any more for the model that has been loaded meanwhile."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


class AsyncChat:
    """As `Chat`, with ``await``."""

    def __init__(self, edge: AsyncEdge, turns: Turns) -> None:
        self._edge, self._turns = edge, turns

    @property
    def messages(self) -> list[Message]:
        """The turns so far, the system message first."""
        return self._turns.messages

    async def ask(self, prompt: Prompt, **options: Unpack[CallOptions]) -> Answer:
        """The answer to the next turn."""
        return await self.stream(prompt, **options).answer()

    def stream(self, prompt: Prompt, **options: Unpack[CallOptions]) -> AsyncStream:
        """As `Chat.stream`, for ``async for``."""
        asked = self._turns.ask(prompt)
        call = self._edge._session.question((*self.messages, *asked), options)
        return AsyncStream(call, on_done=lambda answer: self._turns.add(asked, answer))
