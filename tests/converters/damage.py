"""What a converter might do wrong, whatever it writes: the model as read, but for one fault."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeai.cli import main
from edgeai.converters import make as making
from edgeai.converters.decoder import Decoder, Floats, Matrix, Source, TokenizerData, need
from edgeai.converters.encode import Plain
from edgeai.converters.gguf_writer import write_gguf
from edgeai.converters.graph import Progress
from edgeai.converters.hf_writer import write_folder
from edgeai.converters.onnx_package import Conversion, export, open_source
from edgeai.converters.origin import Origin
from edgeai.converters.timing import Speed
from edgeai.converters.tuned import Tuned

Damage = Callable[[Source], Source]

ROLES = ("q", "k", "v", "o", "gate", "up", "down")


@dataclass(frozen=True)
class Zeros:
    """A matrix of nothing."""

    shape: tuple[int, int]
    kind: str = "F32"

    def rows(self, start: int, stop: int) -> Floats:
        """Some of it."""
        return np.zeros((stop - start, self.shape[1]), np.float32)


@dataclass(frozen=True)
class Told:
    """A source with other facts than its own, and its weights."""

    source: Source
    decoder: Decoder
    data: TokenizerData

    @property
    def provenance(self) -> Mapping[str, str | int | Mapping[str, int]]:
        """The same."""
        return self.source.provenance

    @property
    def n_parameters(self) -> int:
        """The same."""
        return self.source.n_parameters

    def matrix(self, role: str, layer: int | None = None) -> Matrix | None:
        """The same."""
        return self.source.matrix(role, layer)

    def vector(self, role: str, layer: int | None = None) -> Floats | None:
        """The same."""
        return self.source.vector(role, layer)

    def tokenizer(self) -> TokenizerData:
        """What is told."""
        return self.data


def zero_layer(source: Source) -> Source:
    """One layer adds nothing any more."""
    return Tuned(
        source=source, matrices={(role, 0): Zeros(need(source, role, 0).shape) for role in ("o", "down")}
    )


def swap_layers(source: Source) -> Source:
    """Two layers in each other's place."""
    return Tuned(
        source=source, matrices={(role, i): need(source, role, 1 - i) for role in ROLES for i in (0, 1)}
    )


def wrong_rope(source: Source) -> Source:
    """A small part of the base of the rotary embedding: what others take by default, or less."""
    ropes = tuple(replace(rope, base=rope.base / 300) for rope in source.decoder.ropes)
    return Told(source, replace(source.decoder, ropes=ropes), source.tokenizer())


def shift_tokens(source: Source) -> Source:
    """Every ordinary token has the id of the one before it."""
    data = source.tokenizer()
    content: dict[str, Any] = json.loads(data.json)
    marks = {token["content"] for token in content["added_tokens"]}
    vocab: dict[str, int] = content["model"]["vocab"]
    names = [name for name in vocab if name not in marks]
    ids = [vocab[name] for name in names]
    vocab |= dict(zip(names, [*ids[1:], ids[0]], strict=True))
    return Told(source, source.decoder, replace(data, json=json.dumps(content)))


def lose_template(source: Source) -> Source:
    """Nobody has thought of it."""
    return Told(source, source.decoder, replace(source.tokenizer(), chat_template=None))


DAMAGES = (
    (zero_layer, "next tokens"),
    (swap_layers, "next tokens"),
    (wrong_rope, "next tokens"),
    (shift_tokens, "tokenizer gives other ids"),
    (lose_template, "template is lost"),
)
"""Each with a part of the reason that must be given."""


@contextmanager
def damaging(damage: Damage) -> Iterator[None]:
    """Packages and folders are written with the damage; what they are compared with is whole."""

    def opened(source: Path | Source) -> Source:
        return damage(open_source(source) if isinstance(source, Path) else source)

    def exported(source: Path | Source, *args: Any, **kwargs: Any) -> Conversion:  # noqa: ANN401  # as it was
        return export(opened(source), *args, **kwargs)

    def folder_written(source: Source, *args: Any) -> None:  # noqa: ANN401  # as it was
        write_folder(damage(source), *args)

    def file_written(origin: Origin, path: Path, kind: Plain, progress: Progress = lambda *_: None) -> None:
        write_gguf(opened(origin.path), path, kind, progress)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "export", exported)
        patch.setattr(making, "write_folder", folder_written)
        patch.setattr(making, "write_plain", file_written)
        yield


def without_speeds(patch: pytest.MonkeyPatch) -> None:
    """Take no time for them: they say nothing of damage."""
    speed = Speed(load_s=1.0, prefill_tps=1.0, decode_tps=1.0, resident_bytes=1)
    patch.setattr("edgeai.converters.toolchain.measure", lambda *_, **__: speed)


def assert_refused(words: list[str], out: Path, says: str, capfd: pytest.CaptureFixture[str]) -> None:
    """The command ends with exit code 1, a table of what was measured, the reason, and nothing else."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*words, "--out", str(out)])
    said = capfd.readouterr()
    assert ended.value.code == 1, said.err
    assert "PACKAGE" in said.out
    assert "missed: " in said.out
    assert "error: The converted model is not the model" in said.err
    assert says in " ".join(said.err.split())
    assert not out.parent.exists() or not list(out.parent.iterdir())
