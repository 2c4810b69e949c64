"""Does the promise still hold? Audits of kept answers against the cloud, and an alarm that is rarely false.

The evidence M = Π (1 + η (L − α)) is a fair or losing game while the true rate is at most α: by Ville's
inequality it ever reaches 20 with probability 5 % at most, however often one looks.
"""

from dataclasses import dataclass, replace

from edgeai.errors import ContractInfeasible
from edgeai.monitor.contract import Certificate

__all__ = ["ALARM", "Drift", "watch"]

ALARM = 20.0
MOST_AUDITABLE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """The state of the audits; a value, so that the ledger can keep it (`encode`, `decode`).

    ``rate`` is the share of disagreement that the contract allows for (α_d). ``alarmed`` stays once true:
    only a new calibration starts afresh.
    """

    rate: float
    evidence: float = 1.0
    audits: int = 0
    disagreements: int = 0
    alarmed: bool = False

    def observe(self, *, agrees: bool) -> "Drift":
        """The state after one more audit of a kept answer, chosen at random."""
        stake = 1 / (1 - self.rate)
        evidence = self.evidence * (1 + stake * ((not agrees) - self.rate))
        return replace(
            self,
            evidence=evidence,
            audits=self.audits + 1,
            disagreements=self.disagreements + (not agrees),
            alarmed=self.alarmed or evidence >= ALARM,
        )

    def in_words(self) -> str:
        """The state as a sentence without its full stop."""
        seen = f"{self.disagreements} of {self.audits} audited answers differ from the cloud's"
        if self.alarmed:
            return f"the promise no longer holds: {seen}, and at most {self.rate:.3g} of them should"
        return f"no sign of drift: {seen}, evidence {self.evidence:.2g} of {ALARM:g}"


def watch(certificate: Certificate) -> Drift:
    """The audits of a contract, before the first one.

    Raises ContractInfeasible when its disagreement is unknown, or so frequent that audits show nothing.
    """
    rate = certificate.audit_rate
    if rate is None:
        raise ContractInfeasible(
            "Drift cannot be watched",
            why="The calibration did not ask the cloud, so the usual disagreement is unknown",
            remedy="Calibrate with the cloud's answers",
        )
    if rate >= MOST_AUDITABLE:
        raise ContractInfeasible(
            "Drift cannot be watched",
            why=f"Device and cloud may differ in {rate:.0%} of the kept answers while all is well",
            remedy="Calibrate with more answers of the cloud, or with a better cloud",
        )
    return Drift(rate=rate)
