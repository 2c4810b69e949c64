"""The end of a program that has used llama.cpp."""

import subprocess
import sys


def test_nothing_is_left_open() -> None:
    """Python's development mode finds no file open at the end, not llama-cpp-python's null devices either."""
    code = "from edgeai.engines.llamacpp.binding import start; start()"
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True, check=True
    )
    assert "ResourceWarning" not in done.stderr
