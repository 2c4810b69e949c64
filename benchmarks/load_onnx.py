"""The same as `load` on ONNX Runtime, where another session goes on when the number of threads changes."""

from contextlib import ExitStack

from benchmarks.load import (
    COMING,
    COMING_ROUNDS,
    ROUNDS,
    edges,
    in_turn,
    judged,
    neighbours,
    running,
    strangers,
)
from benchmarks.table import Row, plain
from edgeai.devices.probe import usable_cores
from edgeai.prepare import prepare

PACKAGE = "smollm2-135m-instruct@onnx-int8"


def measure() -> list[Row]:
    """The rows of the table. Takes three minutes, alone on the machine."""
    prepare("smollm2-135m-instruct")
    rows = [plain("cores that others use, before all", strangers(), "%")]
    with ExitStack() as stack:
        contenders = edges(stack, PACKAGE)
        for name, programs in neighbours(usable_cores(), PACKAGE).items():
            rounds = ROUNDS if programs and COMING not in programs else COMING_ROUNDS
            with running(programs):
                in_turn(contenders, 2)  # the second session is loaded
                rows += judged(name, in_turn(contenders, rounds))
    return [*rows, plain("cores that others use, after all", strangers(), "%")]
