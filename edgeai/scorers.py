"""How good an answer is, from 0 (wrong) to 1 (right), beside a reference.

exact        the same text
normalised   the same words: case, punctuation, articles and white space do not matter
             (as SQuAD scores answers, Rajpurkar et al. 2016)
numeric      the last number of the answer equals the reference (as for GSM8K, Cobbe et al. 2021)
choice       the same label
json         the share of the reference's fields that the answer has
"""

import json
import math
import re
import string
from collections.abc import Callable
from typing import Any, TypeAlias

__all__ = ["SCORERS", "Reference", "Scorer", "usual_scorer"]

Reference: TypeAlias = Any
"""What JSON holds: a text, several that are all right, or the fields of an object."""
Scorer: TypeAlias = Callable[[str, Reference], float]
_NUMBER = re.compile(r"(?<![\w.])[-−]?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_BARE = str.maketrans("", "", string.punctuation + "“”‘’«»…–—")


def exact(answer: str, reference: Reference) -> float:
    """1 when the answer is the reference, or one of them, character by character."""
    return float(answer in _texts(reference))


def normalised(answer: str, reference: Reference) -> float:
    """1 when both have the same words."""
    return float(_words(answer) in {_words(text) for text in _texts(reference)})


def numeric(answer: str, reference: Reference) -> float:
    """1 when the last number of the answer is the reference's, to a relative 10⁻⁶."""
    found = _last_number(answer)
    wanted = [_last_number(text) for text in _texts(reference)]
    return float(
        found is not None
        and any(
            value is not None and math.isclose(found, value, rel_tol=1e-6, abs_tol=1e-9) for value in wanted
        )
    )


def choice(answer: str, reference: Reference) -> float:
    """1 when both are the same label, whatever their case and white space."""
    return float(_folded(answer) in {_folded(text) for text in _texts(reference)})


def json_fields(answer: str, reference: Reference) -> float:
    """The share of the reference's leaves that the answer has at the same place; 0 for what is not JSON.

    Texts are compared by their words, numbers by value. What the answer has beyond the reference counts as
    wrong: the share is of the leaves of both together.
    """
    try:
        found = _leaves(json.loads(answer))
        wanted = _leaves(json.loads(reference) if isinstance(reference, str) else reference)
    except (ValueError, RecursionError):
        return 0.0
    places = found.keys() | wanted.keys()
    if not places:
        return 1.0
    return sum(
        place in found and place in wanted and _same(found[place], wanted[place]) for place in places
    ) / len(places)


SCORERS: dict[str, Scorer] = {
    "exact": exact,
    "normalised": normalised,
    "numeric": numeric,
    "choice": choice,
    "json": json_fields,
}


def usual_scorer(method: str) -> str:
    """The name of the scorer that fits a method."""
    return {"choose": "choice", "extract": "json"}.get(method, "normalised")


def _texts(reference: Reference) -> list[str]:
    items = reference if isinstance(reference, list) else [reference]
    return [item if isinstance(item, str) else json.dumps(item, ensure_ascii=False) for item in items]


def _words(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", text.casefold().translate(_BARE)).split())


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


def _last_number(text: str) -> float | None:
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "").replace("−", "-")) if found else None


def _leaves(value: Any, place: tuple[str | int, ...] = ()) -> dict[tuple[str | int, ...], Any]:  # noqa: ANN401  # JSON
    """The values that are neither objects nor lists, by their place; an empty container is a leaf."""
    items: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    if not items:
        return {} if not place and isinstance(value, dict | list) else {place: value}
    return {at: leaf for name, item in items for at, leaf in _leaves(item, (*place, name)).items()}


def _same(found: Any, wanted: Any) -> bool:  # noqa: ANN401  # JSON
    if isinstance(found, bool) or isinstance(wanted, bool):
        return found is wanted
    if isinstance(found, int | float) and isinstance(wanted, int | float):
        return math.isclose(found, wanted, rel_tol=1e-6, abs_tol=1e-9)
    if isinstance(found, str) and isinstance(wanted, str):
        return _words(found) == _words(wanted)
    return bool(found == wanted)
