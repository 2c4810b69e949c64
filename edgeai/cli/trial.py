"""Run as ``python -m edgeai.cli.trial MODEL``: opens an installed model and lets it say one token.

What it prints is JSON: seconds to open, seconds to the token. `edgeai doctor` asks, in a child process,
because a broken native library may take its process with it.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass

from edgeai.errors import EdgeError

LIMIT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """How it went: seconds, or ``why`` it did not."""

    open_s: float | None = None
    token_s: float | None = None
    why: str | None = None


def try_out(model: str, limit_s: float = LIMIT_S) -> Trial:
    """Run the trial in a child process that may take ``limit_s`` seconds."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    command = [sys.executable, "-P", "-m", "edgeai.cli.trial", model]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env=env, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        return Trial(why=f"it did not answer within {limit_s:.0f} s")
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        return Trial(why=said[-1] if said else f"its process died with status {done.returncode}")
    return Trial(**json.loads(done.stdout))


def main(model: str) -> None:
    """Open, one token, close. Raises EdgeError's leaves."""
    from edgeai.load import Wanted, choose_package, open_package
    from edgeai.types import Message, Request

    started = time.perf_counter()
    engine = open_package(choose_package(model, "auto", allow_large=True), Wanted(n_ctx=256))
    opened = time.perf_counter()
    try:
        with engine.stream(Request(messages=(Message("user", "Hello"),), max_tokens=1)) as generation:
            list(generation)
    finally:
        engine.close()
    spent = {"open_s": opened - started, "token_s": time.perf_counter() - opened}
    sys.stdout.write(json.dumps(spent))


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except EdgeError as error:
        sys.exit(str(error))
