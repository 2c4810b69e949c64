"""A contract: one JSON file that holds a score, its stages, a certificate, and what it is valid for.

The checksum finds damage and careless edits. It is no signature: who may write the file may promise anything.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from edgeai.errors import ContractInvalid
from edgeai.monitor.codec import decode, dumps, encode
from edgeai.monitor.promise import Promise
from edgeai.monitor.stages import Pipeline

__all__ = ["SUFFIX", "Binding", "Certificate", "Contract", "load", "save"]

FORMAT = 1
SUFFIX = ".contract.json"
MAX_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What a contract is valid for. Hashes are SHA-256; None where there is no such thing.

    ``method`` is "ask", "choose" or "extract"; ``head`` hashes the fixed part of the prompt (system message,
    examples, choices); ``scorer`` says how answers were judged, and is not compared at run time (None).
    ``cloud`` is the model whose answers were compared with, None when no cloud was asked; see `Contract`.
    """

    method: str
    task: str | None
    engine: str
    weights: str
    template: str | None
    head: str | None
    temperature: float
    max_tokens: int
    schema: str | None = None
    scorer: str | None = None
    cloud: str | None = None

    def matches(self, now: "Binding") -> str | None:
        """Why the contract does not hold for ``now``, in words; None when it does."""
        for item in fields(self):
            made, found = getattr(self, item.name), getattr(now, item.name)
            if made != found and not (item.name in ("scorer", "cloud") and found is None):
                return (
                    f"it was calibrated for {_WORDS[item.name]} {_short(made)}, and this is {_short(found)}"
                )
        return None


_WORDS = {
    "method": "the method",
    "task": "the task",
    "engine": "the engine",
    "weights": "a model file with the hash",
    "template": "a chat template with the hash",
    "head": "a fixed prompt head with the hash",
    "temperature": "the temperature",
    "max_tokens": "a limit of tokens of",
    "schema": "a schema with the hash",
    "scorer": "answers judged by",
    "cloud": "a cloud with the model",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """The proof: which threshold passed which test on how many labels.

    An answer is kept when its score is at least ``threshold``. ``n`` calibration queries, ``kept`` of them
    at this threshold, ``errors`` the wrong (or differing) ones among those; ``p_value`` was compared with
    ``level`` by ``procedure``. ``coverage`` = kept / n. ``base_error`` is the rate without a threshold.
    ``audit_rate`` is the rate of disagreement that audits may show before the alarm's evidence grows (α_d),
    None when the cloud was not asked. ``exits`` is the share of queries that left for latency, hedging or
    budget during calibration. ``calibration`` identifies the labels, which are thereby used up.
    """

    threshold: float
    procedure: str
    p_value: float
    level: float
    n: int
    kept: int
    errors: int
    coverage: float
    base_error: float | None
    n_train: int
    calibration: str
    audit_rate: float | None = None
    exits: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """A promise with all that is needed to keep it. ``notes`` are facts for people: data, licence, date.

    A promise of quality or disagreement speaks of one cloud, and holds for no other.
    """

    promise: Promise
    binding: Binding
    pipeline: Pipeline
    certificate: Certificate
    notes: Mapping[str, str] = field(default_factory=dict)

    def keeps(self, score: float | None) -> bool:
        """Whether an answer with this score stays; a missing score never does."""
        return score is not None and score >= self.certificate.threshold

    def matches(self, now: Binding) -> str | None:
        """Why the contract does not hold for ``now``, in words; None when it does."""
        of_one_cloud = self.promise.kind in ("quality", "disagreement")
        return self.binding.matches(now if of_one_cloud else replace(now, cloud=self.binding.cloud))


def save(contract: Contract, path: Path) -> None:
    """Write the contract; the same contract gives the same bytes."""
    table = encode(contract)
    text = json.dumps(
        {"format": FORMAT, "sha256": _checksum(table), "contract": table},
        indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False,
    )  # fmt: skip
    path.write_text(text + "\n", encoding="utf-8", newline="\n")


def load(path: Path) -> Contract:
    """Read a contract and check it. Raises ContractInvalid: what is wrong with the file."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _invalid(path, f"it is larger than {MAX_BYTES >> 20} MiB")
        table = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ContractInvalid(
            f"There is no contract at {path}", remedy="Give a contract's file; `edgeai calibrate` makes them"
        ) from error
    except OSError as error:
        raise _invalid(path, error.strerror or "it cannot be read") from error
    except (ValueError, RecursionError) as error:
        raise _invalid(path, f"it is not JSON ({error})") from error
    if not isinstance(table, dict) or set(table) != {"format", "sha256", "contract"}:
        raise _invalid(path, "it is not a contract of edgeai")
    if table["format"] != FORMAT:
        raise _invalid(path, f"it has format {table['format']}, and this version reads {FORMAT}")
    return _checked(path, table)


def _checked(path: Path, table: Mapping[str, object]) -> Contract:
    if table["sha256"] != _checksum(table["contract"]):
        raise _invalid(path, "it was changed after it was certified: the checksum does not fit")
    try:
        contract = decode(Contract, table["contract"], "contract")
    except (ValueError, RecursionError) as error:
        raise _invalid(path, str(error)) from error
    if why := _contradiction(contract.certificate):
        raise _invalid(path, why)
    return contract


def _contradiction(proof: Certificate) -> str | None:
    """What cannot be true of any certificate."""
    if not 0 <= proof.errors <= proof.kept <= proof.n or proof.kept < 1:
        return "its counts contradict one another"
    if not 0 <= proof.p_value <= proof.level < 1:
        return "its test was not passed"
    return None if 0 <= proof.threshold <= 1 else "its threshold is not between 0 and 1"


def _checksum(table: object) -> str:
    try:
        return hashlib.sha256(dumps(table).encode()).hexdigest()
    except ValueError:
        return "not a number"


def _short(value: object) -> str:
    text = "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return f"{text[:12]}…" if len(text) == 64 else text


def _invalid(path: Path, why: str) -> ContractInvalid:
    return ContractInvalid(
        f"{path} is not a valid contract", why=why, remedy="Calibrate again, or restore the original file"
    )
