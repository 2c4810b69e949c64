"""How fast the four-bit formats of ONNX packages are beside plain round-to-nearest (``int4``), in turn.

Each package of the dithered default model is loaded in a process of its own, with the same threads; a
round asks each for a prompt of 256 tokens and 48 after it, in an order that turns. A ratio is the median
of the rounds'. The graphs are the same, node for node: ``int4`` is symmetric, the others carry a zero
point for each block, and ``mixed`` has eight bits in some matrices, so that it reads more bytes. Packages
that are not there are made first, which takes minutes each.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from benchmarks.conversion import package_of
from benchmarks.table import Row, at_least, plain
from edgeai.converters.formats import format_of
from edgeai.converters.running import running
from edgeai.converters.timing import one_round

BASE, SAME, OTHER = "int4", ("gptq", "awq", "awq_gptq"), ("mixed",)
ROUNDS = 8
LEAST = 0.95

Turn = tuple[float, float]
"""Tokens a second of the prompt, and of the answer."""


def measure() -> list[Row]:
    """The rows of the table. Takes a minute, alone on the machine, when the packages are there."""
    packages = {quant: package_of("dithered", format_of("onnx", quant)) for quant in (BASE, *SAME, *OTHER)}
    with ExitStack() as stack:
        children = {quant: stack.enter_context(child(path)) for quant, path in packages.items()}
        ask_all(children, 0)  # the first is slower
        rounds = [ask_all(children, number) for number in range(ROUNDS)]
    rows = [plain(f"{BASE}, decode", median(found[BASE][1] for found in rounds), "tok/s")]
    for quant in (*SAME, *OTHER):
        prefill, decode = (median(found[quant][i] / found[BASE][i] for found in rounds) for i in (0, 1))
        aim = LEAST if quant in SAME else None
        rows += [
            at_least(f"{quant} ÷ {BASE}, decode", decode, aim),
            at_least(f"{quant} ÷ {BASE}, prefill", prefill, aim),
            at_least(f"{quant} ÷ {BASE}, bytes", size(packages[quant]) / size(packages[BASE])),
        ]
    return rows


def size(package: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in package.iterdir())


def ask_all(children: dict[str, "subprocess.Popen[str]"], number: int) -> dict[str, Turn]:
    """One round, begun with another package each time."""
    names = list(children)
    first = number % len(names)
    return {name: ask(children[name]) for name in names[first:] + names[:first]}


def ask(process: "subprocess.Popen[str]") -> Turn:
    """A prompt and an answer."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    prefill, decode = json.loads(process.stdout.readline())
    return prefill, decode


@contextmanager
def child(package: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process with the package loaded, which ends with its stdin."""
    command = [sys.executable, "-m", "benchmarks.conversion_speed", str(package)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def serve(package: Path) -> None:
    """Answer each line with the speeds of one round."""
    with running(package, n_ctx=512) as model:
        for _ in sys.stdin:
            print(json.dumps(one_round(model, 256, 48)), flush=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
