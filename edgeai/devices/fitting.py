"""Whether a model fits into the memory that there is now; if not, which settings would."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from edgeai.devices.footprint import Footprint, Needs, needs
from edgeai.devices.memory import Memory
from edgeai.devices.profiles import KvType, MemoryBudget, Setting
from edgeai.engines import DevicePlan
from edgeai.errors import ModelError, OutOfMemory
from edgeai.models.shelf import InstalledModel

__all__ = ["MemoryPlan", "Settings", "fit", "memory_plan", "room"]

_log = logging.getLogger("edgeai.devices")
# A shorter context is no use for a chat.
LEAST_N_CTX = 512
STEP = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings that would fit: what they are, and the bytes that they take."""

    model: str
    n_ctx: int
    kv_type: KvType
    total: int

    def __str__(self) -> str:
        stored = "" if self.kv_type == "f16" else f", KV as {self.kv_type}"
        return f"{self.model} with n_ctx={self.n_ctx}{stored} ({self.total / 1e6:.0f} MB)"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """What a model takes at these settings, against the ``room`` for it (bytes), and the nearest that fit.

    ``draft`` are the bytes of a draft model beside it, which are not in that room. Of the footprint ``moved``
    bytes lie on a GPU, with ``gpu_layers`` of the layers (None: all). ``nearest`` is empty when it fits, or
    when nothing would.
    """

    model: str
    n_ctx: int
    kv_type: KvType
    footprint: Footprint
    room: int
    parallel: int | None = None
    draft: int = 0
    gpu_layers: int | None = 0
    moved: int = 0
    nearest: tuple[Settings, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether there is room for all of it."""
        return self.footprint.total - self.moved <= self.room


def room(memory: Memory, budget: MemoryBudget) -> int:
    """Bytes that one model may take now: of what is available, and of the profile's share of all memory."""
    now = memory.available - budget.keep_free_mb.value * 1e6
    return max(0, round(min(now, memory.total * budget.model_share.value)))


def memory_plan(
    model: InstalledModel,
    device: DevicePlan,
    memory: Memory,
    budget: MemoryBudget,
    others: Iterable[InstalledModel] = (),
    draft: InstalledModel | None = None,
) -> MemoryPlan:
    """The terms for the model at the plan's settings. ``others``: packages that could take its place.

    A ``draft`` model's weights, buffers and cache (one full context) leave less room for it.

    Raises ModelError's leaves.
    """
    found, beside = needs(model), _beside(draft, device)
    free = max(0, room(memory, budget) - beside)
    on_gpus = device.gpu_layers if device.gpus and not device.gpu_shared else 0
    made = MemoryPlan(
        model=model.id,
        n_ctx=device.n_ctx,
        kv_type=device.kv_type,
        footprint=found.at(device.n_ctx, device.kv_type, parallel=device.parallel),
        room=free,
        parallel=device.parallel,
        draft=beside,
        gpu_layers=on_gpus,
        moved=found.moved(on_gpus, device.n_ctx, device.kv_type, parallel=device.parallel),
    )
    return made if made.fits else replace(made, nearest=tuple(_nearest(model, made, others)))


def fit(
    model: InstalledModel,
    device: DevicePlan,
    memory: Memory,
    budget: MemoryBudget,
    *,
    fixed: Sequence[Setting] = (),
    others: Iterable[InstalledModel] = (),
    draft: InstalledModel | None = None,
) -> DevicePlan:
    """The plan, made smaller where the profile allows it and the caller has not ``fixed`` the setting.

    Raises OutOfMemory with the terms and the nearest settings that fit, and ModelError's leaves.
    """
    made = memory_plan(model, device, memory, budget, others, draft)
    if made.fits:
        spare = needs(model).spare
        return replace(device, spare_session=made.footprint.total + spare <= made.room)
    free = set(budget.adjust) - set(fixed)
    for settings in made.nearest:
        changed: set[Setting] = set()
        if settings.n_ctx != device.n_ctx:
            changed.add("n_ctx")
        if settings.kv_type != device.kv_type:
            changed.add("kv_type")
        if settings.model == model.id and changed <= free:
            _log.warning("%s does not fit; taken is %s", in_words(made), settings)
            return replace(
                device, n_ctx=settings.n_ctx, kv_type=settings.kv_type, spare_session=not needs(model).spare
            )
    raise OutOfMemory(
        f"{model.id} does not fit into memory", why=in_words(made), remedy=_remedy(made.nearest)
    )


def in_words(made: MemoryPlan) -> str:
    """The terms and the room, in 10⁶ bytes."""
    terms = made.footprint
    parts = {
        "weights": terms.weights,
        f"KV cache of {made.n_ctx} tokens": terms.kv_cache,
        "tokenizer": terms.tokenizer,
        "buffers": terms.buffers,
        "code": terms.code,
    }
    listed = ", ".join(f"{name} {size / 1e6:.0f}" for name, size in parts.items())
    beside = f", beside {made.draft / 1e6:.0f} MB of the draft model" if made.draft else ""
    free = f"{made.room / 1e6:.0f} MB may be used now{beside}"
    moved = f", {made.moved / 1e6:.0f} MB of it on the GPU" if made.moved else ""
    return f"It needs {terms.total / 1e6:.0f} MB ({listed}){moved}, and {free}"


def _beside(draft: InstalledModel | None, device: DevicePlan) -> int:
    if draft is None:
        return 0
    terms = needs(draft).at(device.n_ctx, device.kv_type, parallel=1)
    return terms.total - terms.code


def _remedy(nearest: Sequence[Settings]) -> str:
    if not nearest:
        return "Free memory, take a smaller model, or pass allow_large=True"
    listed = "; or ".join(map(str, nearest))
    return f"These would fit: {listed}. Or free memory, or pass allow_large=True"


def _nearest(model: InstalledModel, made: MemoryPlan, others: Iterable[InstalledModel]) -> Iterator[Settings]:
    """One change at a time, then two: less context, smaller KV values, a smaller package of the model."""
    smaller = _longest(model, made, made.kv_type)
    if smaller is not None:
        yield smaller
    for kv_type in needs(model).kv_types:
        if kv_type != made.kv_type:
            found = _at(model, made.n_ctx, kv_type, made) or _longest(model, made, kv_type)
            if found is not None and (smaller is None or found.n_ctx > smaller.n_ctx):
                yield found
    for other in others:
        try:
            found = _at(other, made.n_ctx, "f16", made) or _longest(other, made, "f16")
        except ModelError:  # it is damaged, and will be told so when it is asked for
            continue
        if other.id != model.id and found is not None:
            yield found


def _longest(model: InstalledModel, made: MemoryPlan, kv_type: KvType) -> Settings | None:
    """The longest context that fits, in steps of 256 tokens; None when it would be less than 512."""
    found = needs(model)
    fixed, whole = (_total(found, n, kv_type, made) for n in (0, made.n_ctx))
    per_token = (whole - fixed) / made.n_ctx
    tokens = int((made.room - fixed) / per_token) // STEP * STEP if per_token else 0
    n_ctx = min(tokens, made.n_ctx)
    return _at(model, n_ctx, kv_type, made) if n_ctx >= LEAST_N_CTX else None


def _at(model: InstalledModel, n_ctx: int, kv_type: KvType, made: MemoryPlan) -> Settings | None:
    total = _total(needs(model), n_ctx, kv_type, made)
    return None if total > made.room else Settings(model=model.id, n_ctx=n_ctx, kv_type=kv_type, total=total)


def _total(found: Needs, n_ctx: int, kv_type: KvType, made: MemoryPlan) -> int:
    """Bytes of the machine's own memory, with as many layers on a GPU as planned."""
    moved = found.moved(made.gpu_layers, n_ctx, kv_type, parallel=made.parallel)
    return found.at(n_ctx, kv_type, parallel=made.parallel).total - moved
