"""How well the device knows when it is right, and what is made of it: ``python -m benchmarks.confidence``."""
