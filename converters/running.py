"""A model with its logits in reach, whichever engine runs it: what a proof compares."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from edgeai.converters.decoder import Floats
from edgeai.engines import DevicePlan
from edgeai.engines.context import Context
from edgeai.engines.template import ChatTemplate
from edgeai.engines.vocabulary import Vocabulary
from edgeai.errors import ModelUnsupported

__all__ = ["Running", "Voice", "cores", "folder_voice", "package_ids", "running"]

_CHUNK = 64  # tokens whose logits are in memory at a time


class Voice:
    """A model's tokenizer and template."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    @property
    def starts(self) -> list[int]:
        """What every text begins with: the BOS token, if the model wants it."""
        return [self._vocabulary.bos] if self._vocabulary.add_bos else []

    @property
    def end(self) -> int:
        """The token that ends an answer, below 0 if there is none."""
        return self._vocabulary.eos

    @property
    def ends(self) -> frozenset[int]:
        """All tokens that end an answer; llama.cpp knows some by their names alone."""
        return self._vocabulary.eog

    @property
    def chat_template(self) -> str | None:
        """The template's source."""
        return self._vocabulary.chat_template

    def ids(self, text: str, *, special: bool = False) -> list[int]:
        """The ids of a text, without what it begins with; ``special`` reads control tokens."""
        return self._vocabulary.tokenize(text, special=special)

    def prompt(self, conversation: Sequence[Mapping[str, str]]) -> str | None:
        """The conversation as the model's template writes it; None when the template refuses it."""
        if self._vocabulary.chat_template is None:
            return None
        bos, eos = (self._vocabulary.name_of(i) for i in (self._vocabulary.bos, self._vocabulary.eos))
        try:
            return ChatTemplate(self._vocabulary.chat_template, bos=bos, eos=eos).render(conversation)
        except ModelUnsupported:
            return None


class Running:
    """A loaded model. Belongs to one thread; raises EngineError."""

    def __init__(
        self, vocabulary: Vocabulary, context: Context, n_vocab: int, close: Callable[[], None]
    ) -> None:
        self.voice = Voice(vocabulary)
        self.n_vocab = n_vocab
        self._context, self._close = context, close

    def rows(self, ids: Sequence[int]) -> Iterator[Floats]:
        """The logits after each of the ids, some rows at a time: (n, vocabulary). Copies."""
        self._context.forget(0)
        for start in range(0, len(ids), _CHUNK):
            chunk = ids[start : start + _CHUNK]
            last = self._context.add(chunk, start, 0, outputs=len(chunk))
            self._decode()
            yield np.stack([self._context.logits(row) for row in range(last + 1 - len(chunk), last + 1)])

    def feed(self, ids: Sequence[int], start: int) -> int:
        """Run the ids after ``start`` earlier ones; the likeliest next token."""
        if start == 0:
            self._context.forget(0)
        row = self._context.add(ids, start, 0, outputs=1)
        self._decode()
        return int(self._context.logits(row).argmax())

    def _decode(self) -> None:
        code = self._context.decode()
        if code:
            raise self._context.failure(code)

    def close(self) -> None:
        """Give the memory back."""
        self._context.free()
        self._close()


@contextmanager
def running(path: Path, *, n_ctx: int, n_threads: int | None = None) -> Iterator[Running]:
    """Load a `.gguf` file with llama.cpp, or a package's folder with ONNX Runtime.

    ``n_ctx`` in tokens. Raises ModelError's and EngineError's leaves, or MissingExtra.
    """
    opener = _open_gguf if path.suffix == ".gguf" else _open_onnx
    model = opener(path, n_ctx, n_threads or cores())
    try:
        yield model
    finally:
        model.close()


def folder_voice(folder: Path, n_vocab: int) -> Voice:
    """The tokenizer and the template of a Hugging Face folder, as they lie there."""
    from edgeai.engines.onnx.folder import read_folder
    from edgeai.engines.onnx.tokenizer import PackageVocabulary

    return Voice(PackageVocabulary(read_folder(folder), n_vocab))


def package_ids(folder: Path, text: str, n_vocab: int) -> list[int]:
    """The ids of a text, from a package's own tokenizer."""
    return folder_voice(folder, n_vocab).ids(text)


def cores() -> int:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _open_gguf(path: Path, n_ctx: int, n_threads: int) -> Running:
    from edgeai.engines.llamacpp.context import Context as LlamaContext
    from edgeai.engines.llamacpp.model import Model
    from edgeai.engines.pace import Pace

    model = Model(path)
    context = LlamaContext(model, n_ctx=n_ctx, n_seq=1, pace=Pace(n_threads, follow_load=False))
    return Running(model, context, model.n_vocab, model.free)


def _open_onnx(path: Path, n_ctx: int, n_threads: int) -> Running:
    from edgeai.engines.onnx.context import Context as OnnxContext
    from edgeai.engines.onnx.facts import graph_file
    from edgeai.engines.onnx.folder import read_folder
    from edgeai.engines.onnx.proto import read_graph
    from edgeai.engines.onnx.sessions import Sessions
    from edgeai.engines.onnx.signature import read_signature
    from edgeai.engines.onnx.tokenizer import PackageVocabulary
    from edgeai.engines.onnx.vetting import check

    file = graph_file(path)
    graph = read_graph(file)
    check(graph, file)
    folder = read_folder(file.parent)
    sessions = Sessions(file, DevicePlan(n_ctx=n_ctx, n_threads=n_threads, spare_session=False))
    signature = read_signature(sessions.first, graph, folder)
    vocabulary = PackageVocabulary(folder, signature.n_vocab)
    context = OnnxContext(sessions, signature, n_ctx=min(n_ctx, signature.max_length or n_ctx), n_seq=1)
    return Running(vocabulary, context, signature.n_vocab, vocabulary.close)
