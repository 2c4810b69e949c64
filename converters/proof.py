"""The proof that a package is still the same model: what was measured, where, and against what."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgeai.converters.divergence import Divergence, compare, windows
from edgeai.converters.gates import Gate
from edgeai.converters.running import Running, Voice
from edgeai.converters.samples import CONVERSATIONS, MULTILINGUAL
from edgeai.converters.task import Task, score
from edgeai.converters.texts import held_out_text
from edgeai.converters.timing import Speed
from edgeai.errors import GateFailed

__all__ = ["PROOF", "Proof", "Trial", "faults", "insist", "prove", "read_proof", "versions", "write_proof"]

PROOF = "proof.json"
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """How a proof is made: on ``tokens`` of ``text`` (None: ours) in windows of ``window`` tokens.

    ``task`` are questions with choices, which source and package answer; ``speed``: measure it.
    """

    tokens: int = 4096
    window: int = 512
    text: str | None = None
    task: Task | None = None
    speed: bool = True

    @property
    def words(self) -> str:
        """The text."""
        return held_out_text() if self.text is None else self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """``reference`` is what ran as the source. ``task`` is the share of right answers, source and package."""

    package: str
    reference: str
    text_sha256: str
    size: int
    source_size: int
    divergence: Divergence | None
    task: tuple[float, float] | None
    speed: Speed | None
    source_speed: Speed | None
    gates: tuple[Gate, ...]
    machine: str
    versions: Mapping[str, str]

    @property
    def passed(self) -> bool:
        """Whether all gates were kept."""
        return all(gate.passed for gate in self.gates)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it did not pass."""
        return tuple(gate.reason for gate in self.gates if gate.reason)


def prove(
    source: Running, target: Running, voice: Voice, test: Trial, progress: Progress
) -> tuple[Divergence, tuple[float, float] | None]:
    """Compare the logits of the two, and their answers. ``voice`` is the source's own tokenizer."""
    ids = voice.ids(test.words[: 8 * test.tokens])
    texts = windows(
        ids, voice.starts, length=min(test.window, len(ids)), count=max(1, test.tokens // test.window)
    )
    divergence = compare(source, target, texts, progress)
    if test.task is None:
        return divergence, None
    return divergence, (score(source, test.task), score(target, test.task))


def faults(source: Voice, target: Voice, licences: tuple[str | None, str | None]) -> dict[str, str | None]:
    """What must be equal, and what is wrong about it: tokenizer, template, licence."""
    return {
        "tokenizer": _tokenizer_fault(source, target),
        "template": _template_fault(source, target),
        "licence": None
        if (licences[0] or "").lower() == (licences[1] or "").lower()
        else f"its licence is {licences[1] or 'lost'}, the source's {licences[0]}",
    }


def _tokenizer_fault(source: Voice, target: Voice) -> str | None:
    for line in MULTILINGUAL:
        if source.ids(line) != target.ids(line):
            return f"its tokenizer gives other ids, for example for {line[:30]!r}"
    if source.starts != target.starts:
        return f"a text begins with {target.starts}, in the source with {source.starts}"
    if source.end >= 0 and source.end not in target.ends:
        return f"the token {source.end} does not end an answer any more"
    return None


def _template_fault(source: Voice, target: Voice) -> str | None:
    if source.chat_template is not None and target.chat_template is None:
        return "its chat template is lost"
    for conversation in CONVERSATIONS:
        theirs, ours = source.prompt(conversation), target.prompt(conversation)
        if theirs != ours:
            return f"its template writes another prompt for {len(conversation)} messages"
        if theirs is not None and source.ids(theirs, special=True) != target.ids(theirs, special=True):
            return "the marks of its template are other tokens"
    return None


def versions(
    names: Sequence[str] = ("edgeai", "numpy", "gguf", "llama-cpp-python", "onnx", "onnxruntime"),
) -> dict[str, str]:
    """The versions of what takes part, of those that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def insist(folder: Path, proof: Proof, more: Sequence[Gate], remedy: str) -> Proof:
    """The proof with ``more`` gates, written into the package. Raises GateFailed unless all are kept."""
    proof = replace(proof, gates=(*proof.gates, *more))
    write_proof(folder, proof)
    if not proof.passed:
        raise GateFailed(
            "The converted model is not the model that is wanted",
            why="; ".join(proof.reasons),
            remedy=remedy,
            proof=proof,
        )
    return proof


def write_proof(folder: Path, proof: Proof) -> None:
    """Write ``proof.json`` into the folder."""
    text = json.dumps({**asdict(proof), "passed": proof.passed}, indent=2, sort_keys=True)
    (folder / PROOF).write_text(text + "\n", "utf-8", newline="\n")


def read_proof(folder: Path) -> Proof:
    """The proof in a folder that this version wrote. Raises OSError, ValueError, KeyError or TypeError."""
    table: dict[str, Any] = json.loads((folder / PROOF).read_text("utf-8"))
    table.pop("passed")
    made = {"divergence": Divergence, "speed": Speed, "source_speed": Speed}
    parts = {key: kind(**table[key]) for key, kind in made.items() if table[key] is not None}
    gates = tuple(Gate(**gate) for gate in table["gates"])
    task = tuple(table["task"]) if table["task"] else None
    return Proof(**{**table, **parts, "gates": gates, "task": task})
