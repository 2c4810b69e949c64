"""Finding the settings with which a model runs fastest on this machine: one after another, in a few seconds.

Each value of a setting is measured three times, in turn with the others, with what was chosen before; it must
be clearly faster than the usual one to be taken. While other programs compute nothing is decided.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from types import MappingProxyType
from typing import Any, Final

from edgeai.devices.tuning import Choice, Tuning, Value
from edgeai.engines import DevicePlan, Engine
from edgeai.engines.cores import Cores
from edgeai.errors import EngineError, ModelUnsupported, StoreError
from edgeai.types import Message, Request

__all__ = ["LIMIT_S", "Knob", "Sample", "knobs", "measure", "search"]

REPEATS: Final = 3
LIMIT_S: Final = 20.0
CLEARLY: Final = 0.97  # of the usual value's time
HOPELESS: Final = 2.0
TOLERATED: Final = 0.3  # cores that others may use meanwhile
PROMPT_WORDS, ANSWER_TOKENS, TYPICAL_ANSWER = 120, 24, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """A setting of `DevicePlan` and its values, the usual one first.

    ``fields``: what a value means for the plan, where that is more than the field of this name.
    """

    name: str
    values: tuple[Value, ...]
    fields: Mapping[Value, Mapping[str, Any]] = field(default_factory=dict)

    def put(self, plan: DevicePlan, value: Value) -> DevicePlan:
        """The plan with this value."""
        return replace(plan, **self.fields.get(value, {self.name: value}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One measurement: seconds of a typical query, and the cores that others used meanwhile.

    None where the system does not tell.
    """

    query_s: float
    others: float | None


def knobs(
    engine: str,
    quantization: str,
    n_threads: int,
    *,
    lossy: bool = False,
    providers: Mapping[str, Mapping[str, Any]] = MappingProxyType({"cpu": MappingProxyType({})}),
) -> tuple[Knob, ...]:
    """What can be set for a model on this engine; ``lossy``: also what changes answers a little.

    ``providers``: those of `edgeai.devices.placing.choices`; the first knob is which of them.
    """
    provider = Knob(
        name="provider", values=tuple(providers), fields={name: providers[name] for name in providers}
    )
    counts = tuple(dict.fromkeys((n_threads, max(1, 3 * n_threads // 4), max(1, n_threads // 2))))
    threads = Knob(name="n_threads", values=counts)
    if engine == "onnx":
        spin = Knob(name="spin_us", values=(20, 0, 200))
        # integer weights that are not packed are far slower: 20 times
        is_float = not quantization.startswith("int")
        return (provider, threads, spin, *((Knob(name="prepack", values=(True, False)),) if is_float else ()))
    kv = (Knob(name="kv_type", values=("f16", "q8_0")),) if lossy else ()
    return (
        provider,
        threads,
        Knob(name="n_ubatch", values=(256, 64)),
        Knob(name="flash_attn", values=(True, False)),
        *kv,
    )


def search(
    tuning: Tuning,
    todo: Sequence[Knob],
    plan: DevicePlan,
    sample: Callable[[DevicePlan], Sample],
    *,
    progress: Callable[[int, int], None],
    limit_s: float = LIMIT_S,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Tuning]:
    """The tuning after each further choice; complete at the end, unless the time was up before.

    Settings that have been chosen already are not measured again. Raises StoreError while other programs
    are busy, and what ``sample`` raises with usual values.
    """
    known = {choice.name: choice.value for choice in tuning.choices}
    unmeasured = {choice.name for choice in tuning.choices if not choice.query_s}  # there was one value only
    done = [
        knob
        for knob in todo
        if known.get(knob.name) in knob.values and (knob.name not in unmeasured or len(knob.values) == 1)
    ]
    todo = [knob for knob in todo if knob not in done]
    for knob in done:
        plan = knob.put(plan, known[knob.name])
    total = sum(len(knob.values) for knob in todo if len(knob.values) > 1) * REPEATS
    count, end = 0, clock() + limit_s
    for number, knob in enumerate(todo):
        is_last = number == len(todo) - 1
        if len(knob.values) == 1:
            tuning = replace(
                tuning.with_choice(Choice(name=knob.name, value=knob.values[0], query_s={})), complete=is_last
            )
            yield tuning
            continue
        took = (clock() - end + limit_s) / max(1, count)
        if clock() + took * len(knob.values) * REPEATS > end and count:
            return  # to be gone on with
        samples: dict[Value, list[Sample]] = {value: [] for value in knob.values}
        for value in _turns(samples):
            progress(count, total)
            count += 1
            found = _try(sample, knob.put(plan, value), is_usual=value == knob.values[0])
            if found is None:
                del samples[value]
            else:
                samples[value].append(found)
        choice = _choose(knob, samples)
        plan = knob.put(plan, choice.value)
        tuning = replace(tuning.with_choice(choice), complete=is_last)
        yield tuning
    progress(total, total)


def _turns(samples: Mapping[Value, Sequence[Sample]]) -> Iterator[Value]:
    """The values in turn; those that cannot be, or have shown to be far slower, no longer."""
    for _ in range(REPEATS):
        for value in list(samples):
            usual = next(iter(samples.values()))
            taken = samples.get(value, ())
            if not taken or taken[0].query_s <= HOPELESS * usual[0].query_s:
                yield value


def _try(sample: Callable[[DevicePlan], Sample], trial: DevicePlan, *, is_usual: bool) -> Sample | None:
    """None for a value that this model or machine cannot have."""
    try:
        return sample(trial)
    except (EngineError, ModelUnsupported):
        if is_usual:
            raise
        return None


def _choose(knob: Knob, samples: Mapping[Value, Sequence[Sample]]) -> Choice:
    others = median(sample.others or 0.0 for taken in samples.values() for sample in taken)
    if others > TOLERATED:
        raise StoreError(
            f"The machine is too busy to tune {knob.name}",
            why=f"Other programs used {others:.1f} cores",
            remedy="Run the same command when it is quiet; it goes on from here",
        )
    times = {value: median(sample.query_s for sample in taken) for value, taken in samples.items()}
    usual, best = knob.values[0], min(times, key=times.__getitem__)
    chosen = best if times[best] < CLEARLY * times[usual] else usual
    return Choice(
        name=knob.name, value=chosen, query_s={str(value): seconds for value, seconds in times.items()}
    )


def measure(open_engine: Callable[[DevicePlan], Engine], plan: DevicePlan) -> Sample:
    """Open the model with this plan and let it answer once; raises what opening and answering raise."""
    engine = open_engine(plan)
    cores = Cores()
    try:
        _answer(engine, "Hello", 2)  # what is made when it is first needed
        cores.free(plan.n_threads)
        prefill_s, token_s = _answer(engine, "word " * PROMPT_WORDS, ANSWER_TOKENS)
        others = cores.others()
    finally:
        engine.close()
    return Sample(query_s=prefill_s + TYPICAL_ANSWER * token_s, others=others)


def _answer(engine: Engine, prompt: str, n_tokens: int) -> tuple[float, float]:
    """Seconds of reading the prompt, and of a token."""
    request = Request(messages=(Message("user", prompt),), max_tokens=n_tokens)
    with engine.stream(request) as generation:
        stamps = [time.perf_counter() for _ in generation]
        finished = generation.finished
    assert finished is not None  # or the stream had raised
    return finished.prefill_s, (stamps[-1] - stamps[0]) / max(1, len(stamps) - 1)
