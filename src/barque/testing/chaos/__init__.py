"""Chaos over real node processes: what `barque nemesis` does. Public.

May import all of Barque but the command line; of `testing` only `checkers`. Read in this order: `nodes`
(processes and their files), `proxy` (the links between them), `clients` (operations and their records),
`faults`, `presets` and `schedule` (which fault happens when), `verdict` (the checks), `run` (one run from its
beginning to its end).

Never: runs in a simulator, so it reads clocks, opens files and starts processes itself; sends a signal to a
process that it has not started.
"""
