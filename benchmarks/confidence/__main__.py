"""Measure parts and write their sections into RESULTS.md: ``python -m benchmarks.confidence [PART …]``."""

import importlib
import sys

from benchmarks.__main__ import store, where

PARTS = ("routers", "promises", "scores", "contracts", "watching")


def main(parts: tuple[str, ...]) -> None:
    """Measure each part, show its tables, and put them in the place of the old ones."""
    if unknown := sorted(set(parts) - set(PARTS)):
        sys.exit(f"Unknown: {', '.join(unknown)}. Known: {', '.join(PARTS)}")
    for part in parts or PARTS:
        module = importlib.import_module(f"benchmarks.confidence.{part}")
        body: str = module.measure()
        section = f"## confidence: {part}\n\n{module.__doc__}\n{where()}\n\n{body}\n"
        print(section, flush=True)
        store(f"confidence: {part}", section)


if __name__ == "__main__":
    main(tuple(sys.argv[1:]))
