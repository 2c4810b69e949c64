"""Replicate's own format: a prediction is begun, then listened to.

https://replicate.com/docs/reference/http and https://replicate.com/docs/topics/predictions/streaming.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from urllib.parse import quote, urlsplit

from edgeai import net
from edgeai.cloud import CloudEnd, CloudText, Piece
from edgeai.cloud.http import carry, checked_host, counted
from edgeai.cloud.keys import Key
from edgeai.cloud.wire import Body, Json, bearer, encoded, fault, split_system, with_wish, word
from edgeai.economics import Price
from edgeai.errors import CloudError, CloudProtocol
from edgeai.net import HttpCall, Link, Retry, Timeouts
from edgeai.types import Message, Released

HOME = "https://api.replicate.com/v1"
VARIABLE = "REPLICATE_API_TOKEN"
DOMAIN = ".replicate.com"


class Replicate:
    """A language model at Replicate, ``owner/name``. Connects to nothing by itself.

    What a model takes is its own business there; we send ``prompt``, ``system_prompt``, ``max_tokens``,
    ``temperature``, ``top_p`` and, if given, ``top_k`` and ``seed``, which the common language models know.
    Tools, images and stop strings are refused; a JSON schema is sent as a wish; a conversation becomes one
    text. Token counts are not told, so the cost of an answer is unknown. A prediction that nobody listens to
    any more is cancelled; if that fails, Replicate ends it after ``timeouts.total_s``.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str = HOME,
        key: Key | str | None = None,
        price: Price | None = None,
        timeouts: Timeouts | None = None,
        retry: Retry | None = None,
        link: Link | None = None,
    ) -> None:
        self._host = checked_host(base_url)
        self._model, self._base_url, self._price = model, base_url.rstrip("/"), price
        variable = VARIABLE if self._host == "api.replicate.com" else None
        self._key = key if isinstance(key, Key) else Key(value=key, variable=variable)
        self._timeouts, self._retry, self._link = timeouts or Timeouts(), retry or Retry(), link or Link()

    def __repr__(self) -> str:
        return f"Replicate({self._model!r})"

    @property
    def model(self) -> str:
        """The model's owner and name."""
        return self._model

    @property
    def endpoint(self) -> str:
        """Where the bytes go."""
        return f"{self._base_url}/models/{quote(self._model)}/predictions"

    @property
    def price(self) -> Price | None:
        """The price given; no list has Replicate's."""
        return self._price

    @property
    def tries(self) -> int:
        """How often the body is sent at most."""
        return self._retry.attempts

    def encode(self, released: Released) -> bytes:
        """The request's body. Raises CloudProtocol for what the format does not have."""
        return encoded(prediction_body(released))

    async def stream(self, released: Released) -> AsyncGenerator[Piece, None]:
        """Ask, and give the pieces as they arrive, one CloudEnd last. Raises CloudError's leaves."""
        key = await self._key.find()
        with counted(0):
            body = self.encode(released)
        begin = HttpCall(
            url=self.endpoint,
            body=body,
            headers=(*bearer(key), ("Cancel-After", f"{self._timeouts.total_s:.0f}s")),
            secrets=(key,) if key else (),
            kinds=("json",),
            link=self._link,
        )
        begun = await self._begin(begin)
        listen = replace(begin, url=begun.listen, body=None, headers=bearer(key), kinds=("sse",))
        pieces = carry(listen, PredictionReader(begin.secrets), self._timeouts, self._retry)
        ended = False
        async with aclosing(pieces):
            try:
                async for piece in pieces:
                    ended = isinstance(piece, CloudEnd)
                    yield replace(piece, sends=begun.sends) if isinstance(piece, CloudEnd) else piece
            except CloudError as error:
                error.sends = begun.sends  # listening again sends nothing of the query
                raise
            finally:
                if not ended and begun.cancel:
                    self._stop(replace(listen, url=begun.cancel, body=b"{}", kinds=("json",)))

    async def _begin(self, call: HttpCall) -> "_Begun":
        """Begin the prediction."""
        json = Json("a prediction of Replicate's", call.secrets)
        async with aclosing(net.stream_events(call, timeouts=self._timeouts, retry=self._retry)) as events:
            async for event in events:
                with counted(event.sends):
                    urls = json.mapping(json.parse(event.data).get("urls"))
                    listen, cancel = (self._checked(word(urls.get(name))) for name in ("stream", "cancel"))
                    if not listen:
                        raise CloudProtocol(f"{self._model} cannot stream", why="It gave no address for it")
                    return _Begun(listen=listen, cancel=cancel, sends=event.sends)
        raise CloudProtocol("The provider did not say where to listen")  # pragma: no cover - net raises first

    def _stop(self, call: HttpCall) -> None:
        """Ask, in the background, to end a prediction that nobody wants any more: it would be billed."""

        async def ask() -> None:
            with suppress(CloudError):  # it ends by itself at the time limit
                async for _ in net.stream_events(call, timeouts=self._timeouts, retry=self._retry):
                    pass

        task = asyncio.get_running_loop().create_task(ask())
        _stopping.add(task)
        task.add_done_callback(_stopping.discard)

    def _checked(self, url: str) -> str:
        """An address, or "", that may see the key: Replicate's, or that of the server which was asked."""
        host = urlsplit(url).hostname or ""
        if url and host != self._host and not (url.startswith("https://") and host.endswith(DOMAIN)):
            raise CloudProtocol("The provider sends us elsewhere", why=f"To {host[:80]!r}")
        return url


@dataclass(frozen=True, slots=True, kw_only=True)
class _Begun:
    """Where to listen to a prediction and to cancel it, and how often the query was sent for it."""

    listen: str
    cancel: str
    sends: int


_stopping: set[asyncio.Task[None]] = set()  # an event loop keeps no task alive by itself


def prediction_body(released: Released) -> Body:
    """The request. Raises CloudProtocol for what the format does not have."""
    for name, given in (
        ("tools", released.tools),
        ("stop strings", released.stop),
        ("images", [image for message in released.messages for image in message.images]),
    ):
        if given:
            raise CloudProtocol(f"Replicate takes no {name}")
    system, others = split_system(with_wish(released))
    sampling = released.sampling
    values: Body = {
        "prompt": _prompt(others),
        "max_tokens": released.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
    }
    if system:
        values["system_prompt"] = system
    if sampling.top_k:
        values["top_k"] = sampling.top_k
    if sampling.seed is not None:
        values["seed"] = sampling.seed
    return {"input": values, "stream": True}


def _prompt(messages: list[Message]) -> str:
    """One question as it is; a conversation with its speakers' names."""
    if len(messages) == 1:
        return messages[0].text
    said = [f"{message.role.capitalize()}: {message.text}" for message in messages]
    return "\n\n".join([*said, "Assistant:"])


class PredictionReader:
    """From the events of one prediction to its pieces."""

    def __init__(self, secrets: tuple[str, ...] = ()) -> None:
        self._json, self._secrets = Json("a prediction of Replicate's", secrets), secrets
        self._has_text = False
        self._finish: str | None = None

    def feed(self, data: str, event: str = "message") -> list[CloudText]:
        """The text in this event, if there is any."""
        if event == "error":
            detail = word(self._json.parse(data).get("detail")) if data.startswith("{") else data
            raise fault("error", detail, self._secrets)
        if event == "done":
            reason = word(self._json.parse(data).get("reason")) if data.startswith("{") else ""
            if reason in ("error", "canceled"):
                raise fault("error", f"The prediction ended: {reason}", self._secrets)
            self._finish = "stop"
        if event == "output" and data:
            self._has_text = True
            return [CloudText(data)]
        return []

    def end(self) -> CloudEnd:
        """The stream is over: the last piece. An answer cut off by its limit is not told from others."""
        return self._json.finish(
            self._finish, {"stop": "stop"}, CloudEnd(finish_reason="stop").usage, (), has_text=self._has_text
        )
