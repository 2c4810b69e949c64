"""The vocabulary of an ONNX package: a Hugging Face ``tokenizer.json`` as the engines want it."""

import hashlib
import json
import threading
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from edgeai.engines.onnx.folder import Folder
from edgeai.engines.text import utf8
from edgeai.errors import EngineClosed, MissingExtra, ModelCorrupt, ModelUnsupported

try:
    import tokenizers
except ImportError as error:
    raise MissingExtra("tokenizers is not installed", extra="onnx", why=str(error)) from error

if TYPE_CHECKING:
    from tokenizers import AddedToken

__all__ = ["PackageVocabulary", "load_tokenizer"]

_SPACE: Final = "▁"
_MIN_FILLED: Final = 0.75
"""Models have a few more rows than tokens, to round their number up; many more are another model's."""

_ENDS: Final = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "</s>", "<eos>")
"""What ends an answer where no file says so."""


class PackageVocabulary:
    """A `Vocabulary`. Raises ModelCorrupt or ModelUnsupported."""

    def __init__(self, folder: Folder, n_vocab: int) -> None:
        self.chat_template = folder.chat_template
        self._lock = threading.Lock()
        self._closed = False
        self._json = folder.tokenizer
        self._tokenizer = load_tokenizer(folder.tokenizer)
        self._byte_level = _is_byte_level(folder.tokenizer)
        self._n_vocab = n_vocab
        _check_size(self._tokenizer.get_vocab(with_added_tokens=True), n_vocab)
        added: dict[int, AddedToken] = self._tokenizer.get_added_tokens_decoder()
        self._added = {i: token.content.encode("utf-8", "replace") for i, token in added.items()}
        self.control = frozenset(i for i, token in added.items() if token.special)
        self._pieces: dict[int, bytes] = {}
        self.bos = self._find(folder.bos_id, folder.bos)
        self.eos = self._find(next(iter(folder.eos_ids), None), folder.eos)
        self.eog = frozenset(self._ends(folder))
        self.add_bos = self.bos >= 0 and self._adds_bos(folder)

    @property
    def template_hash(self) -> str:
        """SHA-256 of the chat template's source."""
        return hashlib.sha256((self.chat_template or "").encode()).hexdigest()

    def tokenize(self, text: str, *, special: bool = False, whole: bool = False) -> list[int]:
        """Token ids of ``text``; ``special`` reads control tokens, ``whole`` adds what starts a document.

        Raises ConfigError for text that has no UTF-8 form, EngineClosed when the model is closed.
        """
        utf8(text)
        with self._lock:
            self.check_open()
            self._tokenizer.encode_special_tokens = not special
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return [self.bos, *ids] if whole and self.add_bos else ids

    def piece(self, token: int) -> bytes:
        """The bytes that ``token`` stands for, empty for control tokens."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._bytes(token)
        return piece

    def name_of(self, token: int) -> str:
        """A special token as text, empty when there is none."""
        return (self._tokenizer.id_to_token(token) or "") if token >= 0 else ""

    def constraint_tokenizer(self) -> object:
        """llguidance's view of the vocabulary. Raises EngineClosed when the model is closed."""
        from edgeai.engines.constrain import tokenizer_from_json

        self.check_open()
        ends = sorted(self.eog, key=lambda token: token != self.eos)
        return tokenizer_from_json(self._json, self._n_vocab, ends)

    def check_open(self) -> None:
        """Raises EngineClosed after `close`."""
        if self._closed:
            raise EngineClosed("The engine is closed", remedy="Open the model again")

    def close(self) -> None:
        """Text is not read any more."""
        self._closed = True

    def _bytes(self, token: int) -> bytes:
        if token in self.control or token in self.eog:
            return b""
        if token in self._added:
            return self._added[token]
        text: str | None = self._tokenizer.id_to_token(token)
        if text is None:
            return b""
        if self._byte_level:
            letters = _letters()
            if all(letter in letters for letter in text):
                return bytes(letters[letter] for letter in text)
        elif len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            return bytes.fromhex(text[3:5])
        return text.replace(_SPACE, " ").encode("utf-8", "replace")

    def _find(self, token: int | None, name: str | None) -> int:
        if token is not None and token < self._n_vocab:
            return token
        found = None if name is None else self._tokenizer.token_to_id(name)
        return -1 if found is None else int(found)

    def _ends(self, folder: Folder) -> set[int]:
        ends = {token for token in (*folder.eos_ids, self.eos) if 0 <= token < self._n_vocab}
        known = (self._tokenizer.token_to_id(name) for name in _ENDS)
        return ends or {token for token in known if token is not None}

    def _adds_bos(self, folder: Folder) -> bool:
        """As the package says; else what its tokenizer does."""
        if folder.add_bos is not None:
            return folder.add_bos
        return bool(self._tokenizer.encode("a").ids[:1] == [self.bos])


def load_tokenizer(text: str) -> Any:  # noqa: ANN401  # its types are partly unknown
    """The tokenizer of a ``tokenizer.json``, which cuts and pads nothing. Raises ModelCorrupt."""
    try:
        loaded = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing more precise
        raise ModelCorrupt(
            "The model's tokenizer cannot be read", why=str(error)[:400], remedy="Get the model again"
        ) from error
    loaded.no_truncation()
    loaded.no_padding()
    return loaded


def _is_byte_level(text: str) -> bool:
    """Whether tokens are written as GPT-2 writes bytes. Raises ModelUnsupported for unknown kinds."""
    table = json.loads(text)
    decoder = table.get("decoder") or {}
    kinds = {part.get("type") for part in [decoder, *(decoder.get("decoders") or [])]}
    if "ByteLevel" in kinds:
        return True
    if kinds & {"ByteFallback", "Metaspace", "Replace"}:
        return False
    raise ModelUnsupported(
        "The model's tokenizer is of an unknown kind",
        why=f"It decodes with {', '.join(sorted(map(str, kinds)))}",
        remedy="Use a model with byte-level BPE or SentencePiece tokens",
    )


def _check_size(vocabulary: dict[str, int], n_vocab: int) -> None:
    highest = max(vocabulary.values(), default=-1)
    if not n_vocab * _MIN_FILLED <= highest + 1 <= n_vocab:
        raise ModelCorrupt(
            "The tokenizer does not match the model",
            why=f"its tokens end at {highest}, the model has {n_vocab}",
            remedy="Put the model's own tokenizer beside it",
        )


@cache
def _letters() -> dict[str, int]:
    """The byte for each letter, as GPT-2's tokenizer writes bytes."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
