"""Tests of clusters in one process: for people who write machines, logs or transports. Public.

May import everything but the command line. Read `plugin` (the pytest fixtures), `determinism` (does a machine
do the same everywhere), `conformance` (suites for a log or a transport of your own) and `simulate` (clusters
on virtual time, from a seed). The rooms below, in this order: `core/` runs core servers without nodes, `sim/`
runs whole nodes on virtual time, `faults/` says what goes wrong, `checkers/` judges what happened, and
`chaos/` does all of this to real processes. A room never imports these four modules.

Never: shares code with what it checks; is imported by production code.
"""
