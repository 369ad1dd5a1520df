"""Benchmarks: clusters of real processes, loads for them, and what was measured.

It may import everything below the command line. Read `workloads.py`, then `measure.py`. It
never compares with other programs: `bench/peers.py` in the repository does.
"""
