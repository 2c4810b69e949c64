"""A sample of `python -m benchmarks redaction`, whose full figures are in benchmarks/RESULTS.md."""

from benchmarks.planted import planted
from benchmarks.redaction import STRICT, is_leak


def test_no_leaks() -> None:
    """Of kinds with a check, e-mail, telephones and keys nothing leaks, in any language or disguise."""
    cases = [case for case in planted(seed=2, rounds=1) if case.kind in STRICT]
    assert len(cases) > 500
    assert [case for case in cases if is_leak(case)] == []
