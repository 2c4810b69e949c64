"""Graphs for NPUs beside a package's own: made, and compared with what they were made from."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeai.converters.decoder import Decoder, Source
from edgeai.converters.encoder import Encoder
from edgeai.converters.fixed_graph import simplify
from edgeai.converters.formats import NpuQuant
from edgeai.converters.gates import Gate
from edgeai.converters.npu import Feed, quantize, run, runs
from edgeai.converters.optimum_export import export_encoder
from edgeai.converters.prefill_chunk import outputs, write_chunk
from edgeai.converters.samples import CONVERSATIONS
from edgeai.converters.stages import Progress, counted
from edgeai.converters.texts import calibration_text, held_out_text
from edgeai.engines.onnx.encoder_text import EncoderText
from edgeai.engines.onnx.folder import read_folder
from edgeai.engines.onnx.tokenizer import PackageVocabulary
from edgeai.engines.prompt import chat_template, prompt_tokens
from edgeai.models.disk import hash_file
from edgeai.models.package import PackageFile, Variants
from edgeai.models.package import Variant as Row
from edgeai.types import Message, Request

__all__ = ["TOKENS", "Variation", "add_encoder", "add_prefill", "paragraphs"]

TOKENS = 64
"""The length of the graphs: most sentences, and a prompt's first part."""

_BOUNDS: dict[NpuQuant, float] = {"a16w8": 0.99, "a8w8": 0.98}
"""The least mean cosine with the floats, on text that nothing was calibrated with."""

_SAME, _ALIKE = 0.9999, 0.9
"""The least mean cosine of the floats with the package's main graph: in floats, and in however few bits.

Other weights or other positions give 0.4 to 0.75; four bits, rounded to the nearest, 0.96."""

_CALIBRATED, _TRIED = 48, 16
_CHUNKS, _TRIED_CHUNKS = 16, 3
_SHORTEST = 40  # letters of a paragraph


@dataclass(frozen=True, slots=True, kw_only=True)
class Variation:
    """What a package gets: rows of its manifest, a file, how near the graph is to its floats, and they

    to the package's main graph. ``bits`` tells in how many bits the graph's values are.
    """

    variants: Variants
    file: PackageFile
    gates: tuple[Gate, ...]
    bits: str


def add_encoder(
    source: Encoder,
    folder: Path,
    staging: Path,
    quant: NpuQuant,
    progress: Progress = lambda done, total: None,
) -> Variation:
    """Write an encoder's graph for NPUs into its package. Raises MissingExtra, ModelUnsupported."""
    work, output = (
        ("classify", "logits") if source.head.task == "classification" else ("embed", "last_hidden_state")
    )
    text = EncoderText((source.path / "tokenizer.json").read_text("utf-8"))
    plain, target = staging / "plain.onnx", folder / f"npu-{work}.onnx"
    known = [_padded(text.ids(part)) for part in paragraphs(calibration_text(), _CALIBRATED)]
    feeds = [_padded(text.ids(part)) for part in paragraphs(held_out_text(), _TRIED)]
    step = counted(progress, 2 + runs(quant, known) + 3 * len(feeds))
    simplify(export_encoder(source, staging / "fixed", tokens=TOKENS, step=step), plain)
    bits = _bits(quant, *quantize(plain, target, quant, known, step))
    floats, whole = (_tried(graph, feeds, [output], step) for graph in (plain, target))
    main = _tried(folder / "model.onnx", map(_main_text, feeds), [output], step)
    near, same = (
        [
            _cosine(_seen(a[0], feed), _seen(b[0], feed))
            for a, b, feed in zip(floats, other, feeds, strict=True)
        ]
        for other in (whole, main)
    )
    return _variation(folder, target, [work], (_near(quant, near, bits), _same(same, _SAME)), bits)


def add_prefill(
    source: Source,
    folder: Path,
    staging: Path,
    quant: NpuQuant,
    progress: Progress = lambda done, total: None,
) -> Variation:
    """Write a decoder's graph for a prompt's start into its package. Raises ModelUnsupported."""
    plain, target = staging / "plain.onnx", folder / "npu-prefill.onnx"
    vocabulary = PackageVocabulary(read_folder(folder), source.decoder.n_vocab)
    known = _chunks(vocabulary, calibration_text(), _CHUNKS)
    feeds = _chunks(vocabulary, held_out_text(), _TRIED_CHUNKS)
    names = outputs(source.decoder.n_layers)
    step = counted(progress, source.decoder.n_layers + runs(quant, known) + 3 * len(feeds))
    write_chunk(source, plain, TOKENS, step)
    bits = _bits(quant, *quantize(plain, target, quant, known, step))
    floats, whole = (_tried(graph, feeds, names, step) for graph in (plain, target))  # one after the other
    prompts = (_main_prompt(source.decoder, feed) for feed in feeds)
    main = _tried(folder / "model.onnx", prompts, names, step)
    near, same = (
        [_cosine(a, b) for one, two in zip(floats, other, strict=True) for a, b in zip(one, two, strict=True)]
        for other in (whole, main)
    )
    works = ["prefill", "embed"]
    return _variation(folder, target, works, (_near(quant, near, bits), _same(same, _ALIKE)), bits)


def _tried(
    graph: Path, feeds: Iterable[Feed], names: Sequence[str], step: Callable[[], None]
) -> list[list[NDArray[Any]]]:
    found = []
    for values in run(graph, feeds, names):
        found.append(values)
        step()
    return found


def paragraphs(text: str, count: int) -> list[str]:
    """Some paragraphs, from all over the text."""
    found = [" ".join(part.split()) for part in text.split("\n\n") if len(part) >= _SHORTEST]
    return found[:: max(1, len(found) // count)][:count]


def _padded(ids: list[int]) -> Feed:
    """The ids, cut off before their last mark where there are too many, and a mask."""
    kept = ids if len(ids) <= TOKENS else [*ids[: TOKENS - 1], ids[-1]]
    both = np.zeros((2, 1, TOKENS), np.int32)
    both[0, 0, : len(kept)], both[1, 0, : len(kept)] = kept, 1
    return {"input_ids": both[0], "attention_mask": both[1]}


def _main_text(feed: Feed) -> Feed:
    """The same for an encoder's main graph, which may ask for the kinds of tokens, too."""
    ids, mask = (feed[name].astype(np.int64) for name in ("input_ids", "attention_mask"))
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def _main_prompt(decoder: Decoder, feed: Feed) -> Feed:
    """The same for a decoder's main graph (see `edgeai.converters.graph`), with nothing before it."""
    ids = feed["input_ids"].astype(np.int64)
    past = np.zeros((1, decoder.n_kv_heads, 0, decoder.head_dim), np.float32)
    layers = range(decoder.n_layers)
    return {
        "input_ids": ids,
        "seqlens_k": np.array([ids.size - 1], np.int32),
        "total_sequence_length": np.array(ids.size, np.int32),
        "logits_index": np.arange(ids.size, dtype=np.int64),
        **{f"past_key_values.{i}.{kind}": past for i in layers for kind in ("key", "value")},
    }


def _chunks(vocabulary: PackageVocabulary, text: str, count: int) -> list[Feed]:
    """Starts of prompts: half of them of documents, half of conversations, if the model has a template."""
    template = chat_template(vocabulary)
    parts = paragraphs(text, count)
    rows = []
    for number, part in enumerate(parts):
        long = part + " " + parts[number - 1]
        if number % 2 and template is not None:
            system = Message("system", str(CONVERSATIONS[1][0]["content"]))
            rows.append(prompt_tokens(vocabulary, template, _request(system, long)))
        else:
            rows.append(vocabulary.tokenize(long, whole=True))
    whole = [row[:TOKENS] for row in rows if len(row) >= TOKENS] or [(rows[0] * TOKENS)[:TOKENS]]
    return [{"input_ids": np.array([row], np.int32)} for row in whole]


def _request(system: Message, text: str) -> Request:
    return Request(messages=(system, Message("user", text)))


def _seen(states: NDArray[Any], feed: Feed) -> NDArray[Any]:
    """The states of tokens that are not padding; logits as they are."""
    return states if states.ndim == 2 else states[feed["attention_mask"] == 1].mean(axis=0)


def _cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Of the numbers in order: a main graph's states have one axis less."""
    one, other = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    norm = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / norm if norm else float(np.array_equal(one, other))


def _bits(quant: NpuQuant, sixteen: int, inputs: int) -> str:
    return f"{quant}: {sixteen} of {inputs} inputs of weights in 16 bits"


def _near(quant: NpuQuant, cosines: Sequence[float], bits: str) -> Gate:
    """Whether whole numbers do what the floats do that they were made of."""
    found, bound = float(np.mean(cosines)), _BOUNDS[quant]
    words = f"its {quant} graph for NPUs has a cosine of {found:.4f} with its floats, not {bound}"
    reason = None if found >= bound else words
    return Gate(name=f"npu {quant} cosine", found=found, bound=bound, reason=reason, note=bits)


def _same(cosines: Sequence[float], bound: float) -> Gate:
    """Whether these floats are the model of the main graph, which is proved against the source."""
    found = float(np.mean(cosines))
    words = f"its graph for NPUs is another model: a cosine of {found:.4f} with its main graph, not {bound}"
    return Gate(name="npu model cosine", found=found, bound=bound, reason=None if found >= bound else words)


def _variation(
    folder: Path, target: Path, works: Sequence[str], gates: tuple[Gate, ...], bits: str
) -> Variation:
    row = Row(graph=target.name, tokens=TOKENS)
    return Variation(
        variants={"npu": dict.fromkeys(works, row)},
        file=PackageFile(
            path=target.relative_to(folder).as_posix(),
            sha256=hash_file(target),
            size=target.stat().st_size,
        ),
        gates=gates,
        bits=bits,
    )
