"""How fast a model is here, measured in a process of its own: ``python -m edgeai.converters.timing PATH``."""

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from edgeai.converters.running import Running, cores, running
from edgeai.engines import DevicePlan
from edgeai.engines.cores import Cores
from edgeai.errors import EngineCrashed
from edgeai.models.package import MANIFEST, Manifest, read_manifest

__all__ = ["TOLERATED", "Speed", "measure", "one_round"]

TOLERATED = 0.3
"""Cores that other programs may use while speeds are measured."""

_PROMPT, _ANSWER, _ROUNDS = 256, 48, 3
_LIMIT_S = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Seconds to load; tokens a second for a prompt of 256 tokens and for the 48 after it (medians of three);

    bytes of the process's memory afterwards, files that it maps included. An encoder's ``prefill_tps`` is of
    one text of 256 tokens, or of the longest that it reads, and it decodes none (None). ``others``: the
    cores that other programs used meanwhile, None where the system does not tell.
    """

    load_s: float
    prefill_tps: float
    decode_tps: float | None
    resident_bytes: int
    others: float | None = None

    @property
    def pace(self) -> float:
        """Tokens a second that users wait for: decoded ones, or those that an encoder reads."""
        return self.prefill_tps if self.decode_tps is None else self.decode_tps

    @property
    def disturbed(self) -> bool:
        """Whether other programs took so much that the speeds say little."""
        return self.others is not None and self.others > TOLERATED


def measure(path: Path, *, n_ctx: int) -> Speed:
    """Measure a `.gguf` file or a package's folder. Raises EngineCrashed when the process fails."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    command = [sys.executable, "-P", "-m", "edgeai.converters.timing", str(path), str(n_ctx)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env, timeout=_LIMIT_S,
            check=True,
        )  # fmt: skip
        return Speed(**json.loads(done.stdout.splitlines()[-1]))
    except subprocess.SubprocessError as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise EngineCrashed(f"{path.name} cannot be measured", why=said[-1] if said else None) from error


def _measure(path: Path, n_ctx: int) -> Speed:
    if (path / MANIFEST).is_file() and (manifest := read_manifest(path)).head is not None:
        return _measure_encoder(path, manifest, n_ctx)
    begin = time.perf_counter()
    with running(path, n_ctx=n_ctx) as model:
        load_s = time.perf_counter() - begin
        n_prompt = min(_PROMPT, n_ctx // 2)
        n_answer = min(_ANSWER, n_ctx - n_prompt - 1)
        used = Cores()
        used.restart()
        rounds = [one_round(model, n_prompt, n_answer) for _ in range(_ROUNDS)]
        others = used.others()
        resident = int(psutil.Process().memory_info().rss)
    prefill, decode = zip(*rounds, strict=True)
    return Speed(
        load_s=round(load_s, 3),
        prefill_tps=round(statistics.median(prefill), 1),
        decode_tps=round(statistics.median(decode), 1),
        resident_bytes=resident,
        others=None if others is None else round(others, 2),
    )


def _measure_encoder(path: Path, manifest: Manifest, n_ctx: int) -> Speed:
    from edgeai.engines.onnx.encoder import open_encoder

    begin = time.perf_counter()
    engine = open_encoder(path, manifest, DevicePlan(n_ctx=n_ctx, n_threads=cores()), name=manifest.id)
    load_s = time.perf_counter() - begin
    row = _tokens(min(_PROMPT, engine.info.n_ctx), engine.info.n_vocab)
    used = Cores()
    used.restart()
    seconds = []
    for _ in range(_ROUNDS + 1):  # the first one finds memory for the others
        begin = time.perf_counter()
        engine.run([row])
        seconds.append(time.perf_counter() - begin)
    others = used.others()
    resident = int(psutil.Process().memory_info().rss)
    engine.close()
    return Speed(
        load_s=round(load_s, 3),
        prefill_tps=round(len(row) / statistics.median(seconds[1:]), 1),
        decode_tps=None,
        resident_bytes=resident,
        others=None if others is None else round(others, 2),
    )


def one_round(model: Running, n_prompt: int, n_answer: int) -> tuple[float, float]:
    """Tokens a second of one prompt and one answer; what the tokens are makes no difference."""
    prompt = _tokens(n_prompt, model.n_vocab)
    begin = time.perf_counter()
    token = model.feed(prompt, 0)
    middle = time.perf_counter()
    for i in range(n_answer):
        token = model.feed([token], n_prompt + i)
    end = time.perf_counter()
    return n_prompt / (middle - begin), n_answer / (end - middle)


def _tokens(count: int, n_vocab: int) -> list[int]:
    return [(17 + (7 * i) % max(n_vocab // 2 - 17, 1)) % n_vocab for i in range(count)]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(_measure(Path(sys.argv[1]), int(sys.argv[2])))) + "\n")
