"""Clusters for tests: by hand, as core servers on virtual time, or whole nodes from one seed. Public.

May import everything but the command line. Read in this order: `memory_log`, `core_cluster`, `scenarios`
and `scripts` (core servers moved by hand), `search` (all interleavings); `core_world`, `core_simulator`,
`small_worlds` (core servers on virtual time); then the simulator of whole nodes: `loop` and `clock`, `disk`
and `process_disk`, `network`, `host` and `workload`, `nemesis`, `swarm` and `rot` (faults), `simulator`,
`shrink`; `checkers`, `lookout` and `history` judge, `transcript` records. `mutants` plants bugs, `rings`
looks for them. `records`, `models` and `linearizability` judge histories of any origin; `chaos` makes
them with real processes. For users: `determinism`, `conformance` and the pytest `plugin`.

Never: shares code with what it checks.
"""
