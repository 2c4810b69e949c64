"""The same as `load` on ONNX Runtime, where another session goes on when the number of threads changes: the
engine that ``Edge()`` takes by itself where it is the faster one, as here. Its weights are those of the same
file in 8 bits, which costs .004 nats a token.
"""

from contextlib import ExitStack

from benchmarks.load import (
    COMING,
    COMING_ROUNDS,
    ROUNDS,
    against_llama,
    answers,
    edges,
    in_turn,
    judged,
    llama_slices,
    neighbours,
    running,
    strangers,
)
from benchmarks.table import Row, plain
from benchmarks.workers import worker
from edgeai.devices.probe import usable_cores
from edgeai.prepare import prepare

PACKAGE = "smollm2-135m-instruct@onnx-int8"


def measure() -> list[Row]:
    """The rows of the table. Takes four minutes, alone on the machine."""
    prepare("smollm2-135m-instruct")
    rows = [plain("cores that others use, before all", strangers(), "%")]
    with ExitStack() as stack:
        contenders = edges(stack, PACKAGE)
        contenders["Llama"] = stack.enter_context(worker(llama_slices))
        for name, programs in neighbours(usable_cores(), PACKAGE).items():
            rounds = ROUNDS if programs and COMING not in programs else COMING_ROUNDS
            with running(programs):
                in_turn(contenders, 2)  # the second session is loaded
                steps, whole = in_turn(contenders, rounds), answers(contenders)
            rows += [*judged(name, steps), *against_llama(steps, whole)]
    return [*rows, plain("cores that others use, after all", strangers(), "%")]
