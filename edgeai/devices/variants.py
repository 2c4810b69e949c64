"""Graphs of a package for other devices: which provider works for each, and which is used.

Only what was tried is used. Asking for a device tries it, once; device="auto" never tries, because that takes
seconds: it uses what `edgeai doctor`, or an earlier wish, has found to work.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Final

from edgeai.devices import compiled
from edgeai.devices.profiles import Goal, Profile
from edgeai.devices.providers import PROVIDERS, Offer, Provider, Verdict, offers
from edgeai.devices.verdicts import circumstances, kept, proven
from edgeai.devices.whole import decoder_offload, decoder_verdict, decodes, known_verdict
from edgeai.devices.wish import Kind, Placed, Wish, order, unavailable
from edgeai.engines import Offload, Step, Work
from edgeai.models.package import Variant

if TYPE_CHECKING:
    from edgeai.devices.probe import Machine
    from edgeai.models.shelf import InstalledModel

__all__ = ["WORKS", "available", "place", "variant_of", "verdict", "verdicts"]

WORKS: Final[tuple[Work, ...]] = ("prefill", "embed", "classify")
"""The work that a graph of its own does; decoding is the main graph's."""
KINDS: Final[Mapping[str, Kind]] = {provider.name: provider.kind for provider in PROVIDERS.values()}
_log = logging.getLogger("edgeai.devices")


def variant_of(model: "InstalledModel", provider: Provider, work: str) -> Variant | None:
    """The package's graph for it: the provider's own, or that of its kind of device."""
    for key in (provider.name, provider.kind):
        found = model.manifest.variants.get(key, {}).get(work)
        if found is not None:
            return found
    return None


def verdict(
    model: "InstalledModel",
    provider: Provider,
    work: Work,
    machine: "Machine",
    *,
    part: str | None = None,
    offer: Callable[[Provider], Offer | None] | None = None,
) -> Verdict:
    """Whether the provider does this work of the model. Without ``offer`` nothing is tried that was not."""
    found = variant_of(model, provider, work)
    if found is None or model.folder is None:
        quant = " --quant int8" if model.manifest.head is None else ""  # encoders have one format
        return Verdict(
            provider=provider.name,
            state="no variant",
            why=f"the package {model.id} has no graph for it",
            remedy=f"Make one: edgeai convert SOURCE --to onnx{quant} --npu a16w8 --out FOLDER",
        )
    graph, facts, options = model.folder / found.graph, circumstances(machine), _options(provider, part)
    known = kept(provider, graph, facts, options=options)
    if known is not None:
        return known
    if offer is None:
        remedy = "edgeai doctor tries it, and so does asking for the device"
        return Verdict(provider=provider.name, state="not tried", remedy=remedy)
    offered = offer(provider)
    if offered is None:
        why = "ONNX Runtime could not say what it offers"
        return Verdict(provider=provider.name, state="crashed", why=why, remedy="Reinstall onnxruntime")
    return proven(offered, graph, facts, options=options)


def verdicts(model: "InstalledModel", machine: "Machine") -> Iterator[tuple[Work, Verdict]]:
    """Every graph of the package on every installed provider that it is for, tried now if it was not.

    An installed provider of an NPU for which there is none gets a verdict, too: what is missing is the graph.
    """
    offer = _ask_once()
    for work in _works(model):
        for provider in PROVIDERS.values():
            offered = offer(provider) if variant_of(model, provider, work) else None
            if offered is not None and offered.installed:
                yield work, verdict(model, provider, work, machine, offer=offer)
    for provider in PROVIDERS.values():
        offered = offer(provider) if _is_whole(model, provider, None) else None
        if offered is not None and offered.installed:
            yield "decode", decoder_verdict(model, offered, provider.options, circumstances(machine))
    for provider in PROVIDERS.values():
        if provider.kind == "npu" and not any(variant_of(model, provider, work) for work in WORKS):
            offered = offer(provider)
            if offered is not None and offered.installed:
                work = _works(model)[0]
                yield work, verdict(model, provider, work, machine)


def available(model: "InstalledModel") -> tuple[str, ...]:
    """The installed providers for which the package has a graph that reads prompts."""
    offer = _ask_once()
    able = [p for p in PROVIDERS.values() if variant_of(model, p, "prefill") or _is_whole(model, p, None)]
    return tuple(p.name for p in able if (found := offer(p)) is not None and found.installed)


def place(model: "InstalledModel", wish: Wish, profile: Profile, goal: Goal, machine: "Machine") -> Placed:
    """Which providers do which work of the model; each that was passed over is a step with its reason.

    Raises DeviceUnavailable when none does any on the device that was asked for.
    """
    if wish.name == "cpu":
        return Placed()
    offer = None if wish.is_open else _ask_once()
    steps: list[Step] = []
    offloads: list[Offload] = []
    verdicts: list[Verdict] = []
    for name in order(wish, KINDS, profile, goal, "decode"):
        whole = _whole_verdict(model, PROVIDERS[name], wish, machine, offer)
        if whole is None:
            continue
        works = whole.state == "works"
        steps.append(Step(work="decode", provider=name, why=None if works else whole.in_words()))
        if works:
            return _whole(model, PROVIDERS[name], wish, whole, steps)
        verdicts.append(whole)
        _log.info("%s is passed over for decode: %s", name, whole.in_words())
    if wish.is_open and not model.manifest.variants:
        return Placed(steps=(*steps, Step(work="decode", provider="cpu")) if steps else ())
    for work in _works(model):
        for name in order(wish, KINDS, profile, goal, work):
            found = verdict(model, PROVIDERS[name], work, machine, part=wish.part, offer=offer)
            works = found.state == "works"
            steps.append(Step(work=work, provider=name, why=None if works else found.in_words()))
            if works:
                offloads.append(_offload(model, PROVIDERS[name], work, wish, found))
                break
            verdicts.append(found)
            _log.info("%s is passed over for %s: %s", name, work, found.in_words())
        else:
            steps.append(Step(work=work, provider="cpu"))
    if not offloads and not wish.is_open:
        if not verdicts:
            steps = [Step(work="decode", provider=wish.name, why="ONNX Runtime has nothing for it")]
        if not wish.allow_fallback:
            raise unavailable(model.id, wish, steps, _remedy(verdicts))
        _log.warning("%s runs on the processor: the device %s cannot be had", model.id, wish)
    return Placed(offloads=tuple(offloads), steps=(*steps, Step(work="decode", provider="cpu")))


def _is_whole(model: "InstalledModel", provider: Provider, part: str | None) -> bool:
    """Whether the main graph is the provider's: it decodes, and the package has no other graph for it."""
    named = any(variant_of(model, provider, work) for work in WORKS)
    return not named and decodes(model, provider, part)


def _whole_verdict(
    model: "InstalledModel",
    provider: Provider,
    wish: Wish,
    machine: "Machine",
    offer: Callable[[Provider], Offer | None] | None,
) -> Verdict | None:
    """On the main graph; None where it is not the provider's, and for what nobody asked for or has tried."""
    if not _is_whole(model, provider, wish.part):
        return None
    facts, options = circumstances(machine), _options(provider, wish.part)
    offered = None if offer is None else offer(provider)
    if offered is None:
        return known_verdict(model, provider, options, facts)
    return decoder_verdict(model, offered, options, facts)


def _whole(
    model: "InstalledModel", provider: Provider, wish: Wish, found: Verdict, steps: Sequence[Step]
) -> Placed:
    options, required = _options(provider, wish.part), not (wish.is_open or wish.allow_fallback)
    offload = decoder_offload(model, provider, options, found.plugin, required=required)
    return Placed(provider=provider.name, offloads=(offload,), steps=tuple(steps))


def _works(model: "InstalledModel") -> list[Work]:
    """The work for which the package has a graph; without any, that for which it might have one."""
    listed = {work for row in model.manifest.variants.values() for work in row}
    return [work for work in WORKS if work in listed] or list(WORKS[:2])


def _ask_once() -> Callable[[Provider], Offer | None]:
    """What ONNX Runtime offers: asked for the first provider of which it matters."""

    @cache
    def found() -> dict[str, Offer]:
        return {offer.provider.name: offer for offer in offers()}

    return lambda provider: found().get(provider.name)


def _options(provider: Provider, part: str | None) -> dict[str, str]:
    chosen = dict(provider.options)
    if part is not None and provider.part_option is not None:
        chosen[provider.part_option] = part
    return chosen


def _offload(model: "InstalledModel", provider: Provider, work: Work, wish: Wish, found: Verdict) -> Offload:
    variant, options = variant_of(model, provider, work), _options(provider, wish.part)
    assert variant is not None  # it was tried
    assert model.folder is not None
    blob = None
    if found.compiled is not None:
        folder = compiled.folder_of(found.compiled[0])
        if provider.cache_option is not None:
            options[provider.cache_option] = str(folder)
        else:
            blob = str(folder / compiled.CONTEXT)
    return Offload(
        work=work,
        provider=provider.name,
        native=provider.native,
        graph=str(model.folder.absolute() / variant.graph),
        tokens=variant.tokens,
        plugin=found.plugin,
        options=options,
        compiled=blob,
        required=not (wish.is_open or wish.allow_fallback),
    )


def _remedy(verdicts: Sequence[Verdict]) -> str | None:
    """That of the provider which came furthest."""
    far = sorted(verdicts, key=lambda found: ("no variant", "not installed").count(found.state))
    return next((found.remedy for found in far if found.remedy), None)
