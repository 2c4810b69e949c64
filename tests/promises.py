"""Small contracts for tests: a score of the mean log-probability, written down and not fitted."""

from collections.abc import Sequence

from edgeai.monitor.contract import Binding, Certificate, Contract
from edgeai.monitor.promise import Promise
from edgeai.monitor.score import Column, Score
from edgeai.monitor.stages import Checkpoint, Futility, Pipeline, Router

CERTIFICATE = Certificate(
    threshold=0.7,
    procedure="fixed sequence",
    p_value=0.01,
    level=0.05,
    n=100,
    kept=60,
    errors=1,
    coverage=0.6,
    base_error=0.2,
    n_train=100,
    calibration="0" * 64,
    audit_rate=0.1,
)


def column(name: str, *, mean: float = -1.0, weight: float = 2.0) -> Column:
    """A feature between −10 and 10."""
    return Column(name=name, mean=mean, scale=1.0, low=-10.0, high=10.0, weight=weight)


def sure_score(name: str = "mean_logprob") -> Score:
    """About .86 for tokens of probability .9, .40 for .3, and .03 for .05."""
    return Score(name="tests' own", intercept=0.0, columns=(column(name),))


def contract(
    binding: Binding,
    *,
    promise: str = "error<=0.1@0.9",
    certificate: Certificate = CERTIFICATE,
    score: Score | None = None,
    checkpoints: Sequence[int] = (),
    router: Router | None = None,
    strength: float | None = None,
) -> Contract:
    """A contract for exactly this; at ``checkpoints`` a prefix must score .2 at least."""
    checks = tuple(Checkpoint(tokens=n, score=sure_score(), threshold=0.2) for n in checkpoints)
    return Contract(
        promise=Promise.parse(promise),
        binding=binding,
        pipeline=Pipeline(
            score=score or sure_score(),
            router=router,
            futility=Futility(checkpoints=checks, lost=0.0) if checks else None,
            strength=strength,
        ),
        certificate=certificate,
    )
