"""Tests of clusters in one process: for people who write machines, logs or transports. Public.

May import everything but the command line. Read `plugin` (the pytest fixtures), `determinism` (does a machine
do the same everywhere), `conformance` (suites for a log or a transport of one's own) and `simulate` (clusters
on virtual time, from a seed). Below them, in this order: `core/` runs core servers without a node, `sim/`
runs whole nodes on virtual time, `faults/` says what goes wrong, `checkers/` judges what happened, and
`chaos/` does all of this to real processes.

Never: shares code with what it checks; is imported by production code.
"""
