"""What a run is fed (happenings), and what it says to do (actions)."""

from dataclasses import dataclass

from edgeai.cloud import CloudEnd, CloudText
from edgeai.engines.generation import Finished
from edgeai.errors import EdgeError
from edgeai.types import Event, Source, Token


@dataclass(frozen=True, slots=True)
class Start:
    """Start this side, or (the device, paused) go on listening to it."""

    side: Source


@dataclass(frozen=True, slots=True)
class Cancel:
    """End this side at once."""

    side: Source


@dataclass(frozen=True, slots=True)
class Fail:
    """The query ends with this error."""

    error: EdgeError


@dataclass(frozen=True, slots=True)
class Refused:
    """The cloud could not even be asked: no money, nothing may be released, or no record of it."""

    error: EdgeError


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed while nothing happened."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The caller wants no more."""


Happening = Token | Finished | CloudText | CloudEnd | EdgeError | Refused | Tick | Stop
Action = Start | Cancel | Fail | Event
