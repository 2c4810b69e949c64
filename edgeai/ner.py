"""Names of people and places, found on the device by a model of the app's choice (extra "ner").

    from edgeai.ner import NameModel
    policy = Policy(privacy="redact", redaction=Redaction(recognisers=(NameModel("ner-folder"),)))

No model comes with edgeai. Any token-classification model in ONNX's format does, as Hugging Face's exporters
write them and many repositories there hold them (BERT, DistilBERT, XLM-RoBERTa, …).
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import east_asian_width

import numpy as np

from edgeai.egress.found import Span
from edgeai.egress.redaction import check_kind
from edgeai.engines import DevicePlan
from edgeai.engines.onnx.session import Session, Stop, value
from edgeai.errors import ConfigError, EngineCrashed, MissingExtra, ModelCorrupt, ModelNotFound

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tokenizers import Encoding

__all__ = ["KINDS", "NameModel"]

KINDS: Mapping[str, str] = {
    "PER": "NAME",
    "PERSON": "NAME",
    "LOC": "PLACE",
    "LOCATION": "PLACE",
    "GPE": "PLACE",
}
"""The usual labels of such models, and the kind of placeholder that each becomes."""

LONGEST = 512
"""Tokens that are looked at together; a longer text is read in windows that overlap by an eighth."""
_TAG = re.compile(r"^[BIESLU][-_]")


class NameModel:
    """A recogniser for ``Redaction(recognisers=…)``. Safe from any thread; opening uses no network.

    folder: holds ``model.onnx`` (or ``onnx/model.onnx``), ``tokenizer.json``, and ``config.json`` with the
        model's labels (``id2label``).
    kinds: which of the labels are secrets, without "B-" and "I-", and the placeholder's name for each.
    least: from which probability on (0 to 1) a token counts; less finds more, and more that is none.
    n_threads: processor threads of one call.

    Raises ModelNotFound, ModelCorrupt, ModelUnsupported, ConfigError, MissingExtra.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        kinds: Mapping[str, str] = KINDS,
        least: float = 0.5,
        n_threads: int = 1,
    ) -> None:
        if not 0 < least < 1:
            raise ConfigError(f"least is {least!r}, expected a number between 0 and 1")
        folder = Path(folder).expanduser()
        config = _config(_file(folder, "config.json"))
        self._tokenizer = _tokenizer(_file(folder, "tokenizer.json"), config)
        self._columns = _columns(config, kinds)
        self._least = least
        plan = DevicePlan(n_ctx=LONGEST, n_threads=n_threads)
        self._session = Session(_file(folder, "model.onnx", "onnx/model.onnx"), plan)

    def __call__(self, text: str) -> list[Span]:
        """(start, end, kind) of each name in the text. Raises EngineError's leaves."""
        whole = self._tokenizer.encode(text)
        found = {
            (*_word(text, *encoding.offsets[at]), kind)
            for encoding in (whole, *whole.overflowing)
            for at, kind in self._tokens(encoding)
        }
        return list(_joined(text, sorted(found)))

    def _tokens(self, encoding: "Encoding") -> Iterator[tuple[int, str]]:
        """The tokens that are part of a name, and its kind."""
        probabilities = self._probabilities(encoding)
        for kind, columns in self._columns.items():
            for at in np.flatnonzero(probabilities[:, columns].sum(axis=1) >= self._least):
                start, end = encoding.offsets[at]
                if start < end and not encoding.special_tokens_mask[at]:
                    yield int(at), kind

    def _probabilities(self, encoding: "Encoding") -> "NDArray[np.float32]":
        """One row a token, one column a label."""
        given = {
            "input_ids": encoding.ids,
            "attention_mask": encoding.attention_mask,
            "token_type_ids": encoding.type_ids,
        }
        binding = self._session.new_binding()
        for name in self._session.inputs:
            binding.input(name, value(np.array([given[name]], np.int64)))
        binding.new_output(next(iter(self._session.outputs)))
        if not binding.run(Stop()):
            raise EngineCrashed("The model that finds names was stopped")
        logits: NDArray[np.float32] = binding.outputs()[0].numpy()[0].astype(np.float32)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
        return shares


def _file(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise ModelNotFound(
        f"{folder} holds no {names[0]}",
        why="A model that finds names is a folder with model.onnx, tokenizer.json and config.json",
        remedy="Export one: optimum-cli export onnx --task token-classification --model … FOLDER",
    )


def _config(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ModelCorrupt(f"{path} is not JSON", why=str(error)) from error
    labels = config.get("id2label") if isinstance(config, dict) else None
    if not isinstance(labels, dict) or not all(str(at).isdecimal() for at in labels):
        raise ModelCorrupt(f"{path} has no id2label", why="Only models that label tokens have it")
    return config


def _columns(config: Mapping[str, Any], kinds: Mapping[str, str]) -> dict[str, list[int]]:
    """For each kind the model's labels that mean it."""
    columns: dict[str, list[int]] = {}
    for at, label in config["id2label"].items():
        plain = _TAG.sub("", str(label)).upper()
        if plain in kinds:
            columns.setdefault(check_kind(kinds[plain]), []).append(int(at))
    if not columns:
        said = ", ".join(map(str, config["id2label"].values()))
        raise ConfigError("The model knows none of the kinds", why=f"Its labels are {said}")
    return columns


def _tokenizer(path: Path, config: Mapping[str, Any]) -> Any:  # noqa: ANN401  # its types are partly unknown
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtra("tokenizers is not installed", extra="ner", why=str(error)) from error
    try:
        loaded = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more precise
        raise ModelCorrupt(f"{path} cannot be read", why=str(error)[:400]) from error
    longest = min(LONGEST, int(config.get("max_position_embeddings") or LONGEST))
    loaded.no_padding()
    loaded.enable_truncation(longest, stride=longest // 8)
    return loaded


def _word(text: str, start: int, end: int) -> tuple[int, int]:
    """The whole word around a token: half a name tells who it is."""
    while start > 0 and _goes_on(text, start):
        start -= 1
    while end < len(text) and _goes_on(text, end):
        end += 1
    return start, end


def _goes_on(text: str, at: int) -> bool:
    """Whether the characters before and after this place are of one word, in a script with spaces."""
    return all(c.isalnum() and east_asian_width(c) not in "WF" for c in text[at - 1 : at + 1])


def _joined(text: str, words: Iterable[Span]) -> Iterator[Span]:
    """First and last name, and the parts of a word, as one."""
    last: Span | None = None
    for start, end, kind in words:
        if last is not None and kind == last[2] and text[last[1] : start].strip(" \t.'’-") == "":
            last = last[0], max(end, last[1]), kind
            continue
        if last is not None:
            yield last
        last = start, end, kind
    if last is not None:
        yield last
