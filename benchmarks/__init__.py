"""Measurements that take long: run from the repository's root, e.g. `python benchmarks/learning.py`."""
