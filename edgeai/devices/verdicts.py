"""Verdicts on execution providers, kept in the data folder: a model is tried once on each.

A verdict is found again by the provider and its options, the graph's hash, the packages' versions, and the
circumstances that the caller names: hardware and drivers.
"""

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Final

from edgeai.devices import compiled
from edgeai.devices.drivers import drivers
from edgeai.devices.providers import CHILD, PROVIDERS, Offer, Provider, Verdict, try_provider
from edgeai.models.disk import remembered_sha256
from edgeai.paths import data_dir

if TYPE_CHECKING:
    from edgeai.devices.probe import Machine

__all__ = ["circumstances", "forget", "keep", "kept", "packages", "proven", "recalled"]

FORMAT: Final = 3  # of what is kept
_SETTLED: Final = ("works", "rejected", "crashed", "timed out")
_FORGOTTEN_S: Final = 3600.0  # a busy machine alone can make a try time out


def circumstances(machine: "Machine") -> dict[str, str]:
    """The hardware and its drivers, which a verdict belongs to."""
    devices = [f"{d.kind} {d.id or d.name} {d.driver}" for d in machine.accelerators]
    facts = {"cpu": machine.cpu, "system": machine.system, "devices": "; ".join(devices)}
    return facts | {"drivers": json.dumps(drivers())}


def kept(
    provider: Provider,
    model: Path,
    circumstances: Mapping[str, str],
    *,
    dimensions: Sequence[str] = (),
    options: Mapping[str, str] | None = None,
) -> Verdict | None:
    """The verdict of an earlier `proven` under these circumstances; None if there is none.

    There is none, either, when what was compiled then has changed since.
    """
    digest = _digest(provider, model, circumstances, dimensions, options)
    found = recalled(digest)
    whole = found is None or found.compiled is None or compiled.is_intact(*found.compiled)
    return found if whole else None


def proven(
    offer: Offer,
    model: Path,
    circumstances: Mapping[str, str],
    *,
    dimensions: Sequence[str] = (),
    options: Mapping[str, str] | None = None,
    command: Sequence[str] = CHILD,
    limit_s: float | None = None,
) -> Verdict:
    """The kept verdict of `try_provider` under these circumstances, or a new one, which is kept."""
    found = kept(offer.provider, model, circumstances, dimensions=dimensions, options=options)
    if found is not None:
        return found
    digest = _digest(offer.provider, model, circumstances, dimensions, options)
    verdict = try_provider(
        offer,
        model,
        dimensions=dimensions,
        options=options,
        digest=digest,
        command=command,
        limit_s=limit_s,
    )
    keep(digest, verdict, model)
    return verdict


def _digest(
    provider: Provider,
    model: Path,
    circumstances: Mapping[str, str],
    dimensions: Sequence[str],
    options: Mapping[str, str] | None,
) -> str:
    """What stands for all that a verdict depends on."""
    chosen = dict(provider.options if options is None else options)
    known = [dict(circumstances), remembered_sha256(model), packages()]
    facts = [FORMAT, provider.name, chosen, list(dimensions), *known]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _path(digest: str) -> Path:
    return data_dir() / "verdicts" / f"{digest}.json"


def packages() -> dict[str, str]:
    """The version of every package that brings a provider."""
    found = {}
    for name in sorted({provider.package for provider in PROVIDERS.values()} | {"onnxruntime-ep-openvino"}):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def recalled(digest: str) -> Verdict | None:
    """The verdict that `keep` has kept under the digest of all that it depends on."""
    path = _path(digest)
    with suppress(OSError, ValueError, TypeError):
        kept_row = json.loads(path.read_text("utf-8"))
        found = Verdict(**{name: value for name, value in kept_row.items() if name != "graph"})
        if found.state == "timed out" and time() - path.stat().st_mtime > _FORGOTTEN_S:
            return None
        return replace(found, compiled=(found.compiled[0], found.compiled[1]) if found.compiled else None)
    return None


def keep(digest: str, verdict: Verdict, graph: Path) -> None:
    """What is not settled, or cannot be kept, is tried again next time. ``graph`` is what was tried."""
    if verdict.state not in _SETTLED:
        return
    path = _path(digest)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps({**asdict(verdict), "graph": remembered_sha256(graph)}), "utf-8")
        os.replace(draft, path)


def forget(graphs: Collection[str | None]) -> None:
    """Delete what is known of graphs with these hashes (SHA-256), and what was compiled of them."""
    for path in (data_dir() / "verdicts").glob("*.json"):
        with suppress(OSError, ValueError, TypeError, KeyError):
            known = json.loads(path.read_text("utf-8"))
            if known["graph"] in graphs:
                compiled.discard(path.stem)
                path.unlink()
