"""How fast the packages of one model run on this machine, measured once and kept."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from edgeai.engines import Engine
from edgeai.models.store import InstalledModel
from edgeai.paths import cache_dir
from edgeai.types import Message, Request

ROUNDS = 3
PROMPT_WORDS = 120
ANSWER_TOKENS = 32
# What a typical query asks of a device: a question with some context, and an answer of a few sentences.
TYPICAL_PROMPT, TYPICAL_ANSWER = 128, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Tokens per second of one package on this machine."""

    id: str
    engine: str
    decode_tps: float
    prefill_tps: float

    @property
    def query_s(self) -> float:
        """Seconds of a typical query: 128 tokens of prompt, 64 of answer."""
        return TYPICAL_PROMPT / self.prefill_tps + TYPICAL_ANSWER / self.decode_tps


def speeds(
    models: Sequence[InstalledModel],
    open_package: Callable[[InstalledModel], Engine],
    *,
    circumstances: Mapping[str, str],
    again: bool = False,
) -> tuple[Speed, ...]:
    """The speed of each, fastest typical query first; measured now only if that was not done before.

    ``circumstances`` are what a measurement depends on beside the weights (processor, versions); a few
    seconds a package. ``again`` measures in any case.
    """
    note = _note(models, circumstances)
    kept = None if again else _read(note)
    found = kept or tuple(_measure(model, open_package) for model in models)
    if kept is None:
        _write(note, found)
    return tuple(sorted(found, key=lambda speed: speed.query_s))


def _measure(model: InstalledModel, open_package: Callable[[InstalledModel], Engine]) -> Speed:
    engine = open_package(model)
    try:
        _round(engine, 0)
        rounds = [_round(engine, number) for number in range(1, ROUNDS + 1)]
    finally:
        engine.close()
    return Speed(
        id=model.id,
        engine=model.manifest.engine,
        decode_tps=median(decode for decode, _ in rounds),
        prefill_tps=median(prefill for _, prefill in rounds),
    )


def _round(engine: Engine, number: int) -> tuple[float, float]:
    """Decode and prefill, in tokens per second; the number keeps the prompt out of the prefix cache."""
    prompt = f"{number} " + f"word{number} " * PROMPT_WORDS
    request = Request(messages=(Message("user", prompt),), max_tokens=ANSWER_TOKENS)
    stamps = []
    with engine.stream(request) as generation:
        for _ in generation:
            stamps.append(time.perf_counter())
        finished = generation.finished
    if finished is None or len(stamps) < 2 or not finished.prefill_s:
        return 1.0, 1.0
    return (len(stamps) - 1) / (stamps[-1] - stamps[0]), (
        finished.n_prompt - finished.n_cached
    ) / finished.prefill_s


def _note(models: Sequence[InstalledModel], circumstances: Mapping[str, str]) -> Path:
    files = sorted((model.id, model.manifest.weights.sha256 or "") for model in models)
    key = json.dumps([files, sorted(circumstances.items())])
    return cache_dir() / "speeds" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def _read(note: Path) -> tuple[Speed, ...] | None:
    with suppress(OSError, ValueError, TypeError):
        return tuple(Speed(**row) for row in json.loads(note.read_text("utf-8")))
    return None


def _write(note: Path, found: Sequence[Speed]) -> None:
    """Kept whole or not at all; a cache that cannot be written only means measuring again."""
    with suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        draft = note.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps([asdict(speed) for speed in found]), "utf-8")
        os.replace(draft, note)
