"""Speeds as ratios between two things measured in the same run. `make bench` writes `RESULTS.md`."""
