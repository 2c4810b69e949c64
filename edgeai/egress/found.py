"""What recognisers give, and the runs of digits that several of them look at."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

Span = tuple[int, int, str]
Recogniser = Callable[[str], Iterable[Span]]

_RUN = re.compile(r"(?<!\d)\d(?:[ \t.\-_·]{0,3}\d){6,}")
_GROUP = re.compile(r"\d+")
_MOST_DIGITS, _MOST_GROUPS = 19, 8


@dataclass(frozen=True, slots=True)
class Digits:
    """Some neighbouring groups of digits: where they are in the text, and the digits without separators."""

    start: int
    end: int
    digits: str


def matches(pattern: re.Pattern[str], text: str, kind: str, group: int = 0) -> Iterator[Span]:
    """Each match of the pattern, or of a group in it, as a span of this kind."""
    for found in pattern.finditer(text):
        yield (*found.span(group), kind)


def digit_runs(text: str, *, least: int, most: int, thorough: bool = False) -> Iterator[Digits]:
    """All neighbouring groups of digits that together have so many; of single digits only whole runs.

    With ``thorough`` a run of single digits that is too long to be one number is looked through as well.
    """
    for run in _RUN.finditer(text):
        groups = [found.span() for found in _GROUP.finditer(text, *run.span())]
        single = len(groups) > 1 and all(end - start == 1 for start, end in groups)
        whole = single and (len(groups) <= _MOST_DIGITS or not thorough)
        reach = _MOST_DIGITS if single else _MOST_GROUPS
        for first in range(1 if whole else len(groups)):
            for last in range(
                len(groups) if whole else first + 1,
                min(first + (len(groups) if whole else reach), len(groups)) + 1,
            ):
                n_digits = sum(end - start for start, end in groups[first:last])
                fraction = last - first == 2 and text[groups[first][1] : groups[last - 1][0]] == "."
                if least <= n_digits <= most and not fraction:
                    start, end = groups[first][0], groups[last - 1][1]
                    yield Digits(start, end, "".join(text[a:b] for a, b in groups[first:last]))
                elif n_digits > most:
                    break
