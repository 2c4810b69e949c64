"""Warm starts: the head of a prompt is computed once, kept on the disk, and brought back after a restart."""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from edgeai.engines.context import Context
from edgeai.engines.prefill import prefill
from edgeai.engines.slots import Slot, common
from edgeai.models import prefixes
from edgeai.types import Message, Request

__all__ = ["Keeping", "KeptFind", "WarmShelf", "head_of", "warm_steps"]

_PROBES = ("0", "Ab")


class Keeping(Context, Protocol):
    """A context whose sequences can be taken out as bytes, and put in again."""

    def save(self, seq: int) -> bytearray:
        """All that the sequence holds."""
        ...

    def load(self, seq: int, n_tokens: int, data: bytearray) -> bool:
        """Put ``n_tokens`` that were saved into the empty sequence; False when they do not fit."""
        ...


@dataclass(slots=True)
class KeptFind:
    """A kept prefix, and how much of it was looked for."""

    context: Keeping
    kept: prefixes.Kept
    tokens: tuple[int, ...]
    known: int = 0

    def restore(self, seq: int) -> bool:
        """Bring it into the empty sequence; False, and the file is gone, when it is damaged."""
        data = prefixes.read(self.kept)
        if data is not None and self.context.load(seq, len(self.tokens), data):
            return True
        self.kept.path.unlink(missing_ok=True)
        return False


class WarmShelf:
    """The kept prefixes that one engine may use. It belongs to the thread that owns the context.

    ``key`` says, for an adapter, all that the values in the cache depend on, beside the tokens.
    """

    def __init__(self, context: Keeping, key: Callable[[str | None], Mapping[str, str]]) -> None:
        self._context, self.key = context, key
        self._known: dict[str, KeptFind] = {}

    def find(self, tokens: Sequence[int], adapter: str | None, *, most: int) -> KeptFind | None:
        """The prefix that knows most of ``tokens``, of those that take at most ``most`` cells."""
        names = prefixes.names(self.key(adapter)) if prefixes.folder().is_dir() else []
        found = [find for name in names if (find := self._look(name)) is not None]
        known = [replace(find, known=common(find.tokens, tokens)) for find in found]
        fitting = (find for find in known if find.known and len(find.tokens) <= most)
        return max(fitting, key=lambda find: (find.known, -len(find.tokens)), default=None)

    def has(self, tokens: Sequence[int], adapter: str | None) -> bool:
        """Whether these tokens are kept."""
        return (prefixes.folder() / prefixes.name_of(self.key(adapter), tokens)).exists()

    def _look(self, name: str) -> KeptFind | None:
        """What a file holds: its name stands for its tokens, so that they are read once."""
        if name not in self._known:
            kept = prefixes.look(prefixes.folder() / name)
            tokens = () if kept is None else prefixes.read_tokens(kept)
            if kept is None or not tokens:
                return None
            self._known[name] = KeptFind(self._context, kept, tokens)
        return self._known[name]


def warm_steps(
    context: Keeping, is_kept: Callable[[], bool], made: list[bytearray], known: list[int], slot: Slot
) -> Generator[None, None, None]:
    """Compute all of the slot's tokens; ``made`` gets them as bytes unless they are kept already.

    ``known`` gets the number of those that needed no computing.
    """
    known.append(slot.n_past)
    yield from prefill(context, slot, len(slot.tokens))
    if not is_kept():
        made.append(context.save(slot.seq))


def head_of(prompt: Callable[[Request], Sequence[int]], request: Request) -> list[int]:
    """The tokens with which all prompts begin that go on after the request's messages.

    After a user's message more text of it may follow, after any other the user's next one.
    """
    one, other = (prompt(replace(request, messages=_going_on(request.messages, probe))) for probe in _PROBES)
    return list(one[: common(one, other)])


def _going_on(messages: tuple[Message, ...], probe: str) -> tuple[Message, ...]:
    *before, last = messages
    if last.role == "user" and isinstance(last.content, str):
        return (*before, replace(last, content=last.content + probe))
    return (*messages, Message("user", probe))
