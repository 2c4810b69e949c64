"""One package on two devices: what an app sees of it."""

from pathlib import Path

import numpy as np

from edgeai import Edge

LONG = "A prompt of more tokens than the graph is long"


def check_answers(package: Path, device: str, told: str, *, exact: bool = True) -> None:
    """The device is what is told; its answers are the processor's, those of fewer bits nearly."""
    with (
        Edge(package, device="cpu", ledger=False, isolation="thread") as usual,
        Edge(package, device=device, ledger=False, isolation="thread") as edge,
    ):
        assert edge.info.device == told, edge.info.steps
        answer = edge.ask(LONG, max_tokens=8)
        assert answer.device == told
        assert answer.usage.completion_tokens
        assert not exact or answer.text == usual.ask(LONG, max_tokens=8).text
        for text in ("Hello", LONG):
            assert float(np.sum(edge.embed([text]) * usual.embed([text]))) > (0.999 if exact else 0.99)
