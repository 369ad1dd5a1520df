"""Clusters for tests: by hand, or whole nodes simulated from one seed. Public.

May import everything but the command line. Read in this order: `memory_log`, `core_cluster` and
`scenarios` (core servers moved by hand); then the simulator: `loop` and `clock` (virtual time), `disk`
and `process_disk`, `network`, `host` and `workload` (nodes and their clients), `nemesis` and `swarm`
(faults), `simulator`; `checkers` and `history` judge, `transcript` records, `mutants` plants bugs. `records`,
`models` and `linearizability` judge histories of any origin; `chaos` makes them with real processes.

Never: shares code with what it checks.
"""
