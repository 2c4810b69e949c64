"""Whether a contract holds: for one query (`Standing`), and as things have gone so far (`Contracts`)."""

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgeai.errors import ContractInfeasible, LedgerError
from edgeai.monitor import Guard
from edgeai.policy import Policy
from edgeai.types import Answer, FinishReason, Reason, Signals, Source

if TYPE_CHECKING:
    from edgeai.monitor.contract import Binding, Contract
    from edgeai.monitor.drift import Drift

__all__ = [
    "Contracts",
    "DriftAlarm",
    "Live",
    "Memory",
    "Standing",
    "contract_id",
    "read_contract",
    "read_drift",
]

RECENT = 200
"""How many of a contract's latest queries tell the share of those that left for other reasons."""
STAGES = (Reason.LOW_CONFIDENCE, Reason.ROUTED)
"""The reasons for which a contract itself sends a query away."""

REFRESH_S = 1.0
"""How old the state of audits may be that was read from the ledger: other processes audit, too."""

_logger = logging.getLogger("edgeai.standing")


class Memory(Protocol):
    """Where the history of contracts outlives the process: the ledger."""

    def contract_ends(self, contract: str, limit: int) -> list[tuple[str | None, str | None]]:
        """(source, reason) of the latest queries under this contract, the oldest first."""
        ...

    def drift(self, contract: str) -> str | None:
        """What `change_drift` stored, None before."""
        ...

    def change_drift(self, contract: str, change: Callable[[str | None], str]) -> None:
        """Replace what is stored, in one step for all processes."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftAlarm:
    """Audits have shown that a contract's promise no longer holds. ``contract`` is its hash."""

    contract: str
    promise: str
    drift: "Drift"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a contract is worth for one query.

    ``why`` says in words why an answer cannot be certified, None when it can. ``applies``: the contract was
    calibrated for this, so that its stages run. ``trusted``: its calibration is not refuted. ``unwatched``
    says why nobody would notice a drift.
    """

    contract: "Contract"
    id: str
    why: str | None = None
    applies: bool = True
    trusted: bool = True
    unwatched: str | None = None

    def guard(self) -> Guard | None:
        """The contract's stages for one query, None when they do not apply."""
        return Guard(self.contract) if self.applies else None

    def stamp(self, answer: Answer, signals: Signals | None) -> Answer:
        """The answer with what the contract says of it; ``signals`` are the device's."""
        why = self._refuses(signals, answer.source, answer.finish_reason)
        on_device = answer.source == "device"
        known = signals is not None and on_device and self.applies and self.trusted
        return replace(
            answer,
            explanation=f"{answer.explanation} {self._in_words(why)}" if on_device else answer.explanation,
            confidence=signals.confidence if signals is not None and known else None,
            certified=why is None,
            contract=self.id if self.applies else None,
        )

    def _refuses(self, signals: Signals | None, source: Source, finish: FinishReason | None) -> str | None:
        """Why an answer is not certified, in words; None when it is."""
        if source == "cloud":
            return "the cloud answered"
        if self.why is not None:
            return self.why
        if finish == "cancelled" or signals is None or signals.finished is None:
            return "it was stopped before its end"
        if signals.cut_off:
            return "it was cut off before its end"
        return None if signals.keeps else "the contract would not keep it"

    def _in_words(self, why: str | None) -> str:
        if why is not None:
            return f"Not certified: {why}."
        watched = f" (drift is not watched: {self.unwatched})" if self.unwatched else ""
        return f"Certified: {self.contract.promise.in_words()}{watched}."


@dataclass(slots=True, kw_only=True)
class Live:
    """One contract in use. ``exits`` tells of its latest queries which left for a reason not its own."""

    contract: "Contract"
    id: str
    drift: "Drift | None"
    unwatchable: str | None = None
    read_s: float = field(default_factory=time.monotonic)
    exits: deque[bool] = field(default_factory=lambda: deque(maxlen=RECENT))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def too_many_exits(self) -> str | None:
        """Why promises about kept answers are void at present; the unconditional one survives any exit."""
        with self.lock:
            n, left = len(self.exits), sum(self.exits)
        allowed = self.contract.certificate.exits
        if self.contract.promise.kind == "overall-error" or left <= allowed * n:
            return None
        return (
            f"{left} of the last {n} queries left for the deadline, an error or the policy, which is more "
            f"than the {allowed:.0%} at calibration"
        )


class Contracts:
    """The contracts that one Edge has met, with their history. Safe from any thread."""

    def __init__(self, memory: Memory | None = None) -> None:
        self._memory = memory
        self._known: dict[str, Live] = {}
        self._lock, self._auditing = threading.Lock(), threading.Lock()
        self.listeners: list[Callable[[DriftAlarm], None]] = []

    def live(self, policy: Policy) -> Live | None:
        """The policy's contract, loaded the first time. Raises ContractInvalid and LedgerError."""
        if policy.contract is None:
            return None
        contract = read_contract(policy.contract)
        with self._lock:
            found = next((live for live in self._known.values() if live.contract is contract), None)
            if found is None:
                name = contract_id(contract)
                found = self._known.setdefault(name, self._begin(contract, name))
            return found

    def standing(
        self, policy: Policy, now: "Callable[[], Binding]", *, early: bool, has_cloud: bool
    ) -> Standing | None:
        """What the policy's contract is worth for a query that is ``now``; ``early``: text shows unjudged."""
        live = self.live(policy)
        if live is None:
            return None
        current = now()
        if mismatch := live.contract.matches(current):
            return Standing(contract=live.contract, id=live.id, why=mismatch, applies=False)
        self._refresh(live)
        alarm = live.drift.in_words() if live.drift is not None and live.drift.alarmed else None
        hasty = "it was shown before it was judged, as hold= asked" if early else None
        return Standing(
            contract=live.contract,
            id=live.id,
            why=alarm or hasty or live.too_many_exits(),
            trusted=alarm is None,
            unwatched=_unwatched(live, policy, current.cloud, has_cloud=has_cloud),
        )

    def ended(self, answer: Answer) -> None:
        """Count the end of a query to which a contract applied."""
        live = self._known.get(answer.contract or "")
        if live is not None:
            with live.lock:
                live.exits.append(_is_exit(answer.source, answer.reason))

    def audited(self, contract: str, *, agrees: bool) -> None:
        """Take one audit into account, and tell the listeners when the alarm is raised."""
        live = self._known[contract]
        with self._auditing:
            before = live.drift
            if before is None:
                return
            live.drift = after = self._observe(live, before, agrees=agrees)
        if alarm := _alarm(live, before, after):
            self._tell(alarm)

    def _refresh(self, live: Live) -> None:
        """Learn what other processes have found; never waits for an audit, and no answer is lost for it."""
        before = live.drift
        if self._memory is None or before is None or before.alarmed:
            return
        if time.monotonic() - live.read_s < REFRESH_S or not self._auditing.acquire(blocking=False):
            return
        try:
            live.drift = after = _read(self._memory.drift(live.id), before)
        except LedgerError as error:
            _logger.warning("the record of audits could not be read: %s", error)
            return
        finally:
            live.read_s = time.monotonic()
            self._auditing.release()
        if (alarm := _alarm(live, before, after)) and self.listeners:  # the query does not wait for them
            threading.Thread(target=self._tell, args=(alarm,), name="edgeai-drift", daemon=True).start()

    def _begin(self, contract: "Contract", name: str) -> Live:
        from edgeai.monitor.drift import watch

        try:
            drift, unwatchable = watch(contract.certificate), None
        except ContractInfeasible as error:
            drift, unwatchable = None, error.why
        live = Live(contract=contract, id=name, drift=drift, unwatchable=unwatchable)
        if self._memory is not None:
            if drift is not None:
                live.drift = _read(self._memory.drift(name), drift)
            for source, reason in self._memory.contract_ends(name, RECENT):
                live.exits.append(_is_exit(source, reason))
        return live

    def _observe(self, live: Live, before: "Drift", *, agrees: bool) -> "Drift":
        """The state after an audit; that of all processes, where there is a ledger."""
        if self._memory is None:
            return before.observe(agrees=agrees)
        states: list[Drift] = []

        def change(stored: str | None) -> str:
            from edgeai.monitor.codec import dumps, encode

            states.append(_read(stored, before).observe(agrees=agrees))
            return dumps(encode(states[-1]))

        self._memory.change_drift(live.id, change)
        return states[-1]

    def _tell(self, alarm: DriftAlarm) -> None:
        for listener in tuple(self.listeners):
            try:
                listener(alarm)
            except Exception as error:  # it is the app's code, in a thread of ours
                _logger.error("A listener for drift failed", exc_info=error)


def read_contract(contract: "str | Path | Contract") -> "Contract":
    """The contract itself, or that of the file. Raises ContractInvalid."""
    if not isinstance(contract, str | Path):
        return contract
    path = Path(contract).expanduser().absolute()
    try:
        facts = path.stat()
    except OSError:
        return _load(path, 0, 0)  # raises, in the words of those who know
    return _load(path, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=16)
def _load(path: Path, changed_ns: int, size: int) -> "Contract":
    """Read once for each state of the file."""
    from edgeai.monitor.contract import load

    return load(path)


def _alarm(live: Live, before: "Drift", after: "Drift") -> DriftAlarm | None:
    """The alarm, if it is new to this process."""
    if before.alarmed or not after.alarmed:
        return None
    _logger.warning("the contract %s: %s", live.id[:12], after.in_words())
    return DriftAlarm(contract=live.id, promise=str(live.contract.promise), drift=after)


def _unwatched(live: Live, policy: Policy, judge: str | None, *, has_cloud: bool) -> str | None:
    """Why nobody audits, in words. How often another cloud than calibration's may differ is not known."""
    if policy.privacy == "local":
        return "the policy keeps everything on the device"
    if not has_cloud:
        return "no cloud is configured to compare with"
    usual, scorer = live.contract.binding.cloud, live.contract.binding.scorer
    if policy.audit and usual not in (None, judge):
        return f"calibration compared with the cloud {usual}, and this one is {judge}"
    from edgeai.scorers import SCORERS

    if scorer is not None and scorer not in SCORERS:
        return f"answers were judged by {scorer}, which cannot be done at run time"
    return live.unwatchable if policy.audit else "the policy audits nothing"


def _is_exit(source: str | None, reason: str | None) -> bool:
    return source == "cloud" and reason not in STAGES


def read_drift(stored: str) -> "Drift":
    """The state of audits as the ledger keeps it. Raises LedgerError when it is damaged."""
    from edgeai.monitor.codec import decode
    from edgeai.monitor.drift import Drift

    try:
        return decode(Drift, json.loads(stored), "drift")
    except ValueError as error:
        raise LedgerError("The ledger's record of audits is damaged", why=str(error)) from error


def _read(stored: str | None, start: "Drift") -> "Drift":
    return start if stored is None else read_drift(stored)


def contract_id(contract: "Contract") -> str:
    """The hash that names a contract: that of its whole content."""
    import hashlib

    from edgeai.monitor.codec import dumps, encode

    return hashlib.sha256(dumps(encode(contract)).encode()).hexdigest()
