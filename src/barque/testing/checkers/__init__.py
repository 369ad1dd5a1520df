"""Judges of runs and of histories. They see what servers, nodes and clients do, and know what must hold.

May import all of Barque but the command line; of `testing` only the simulated disk and loop. Of runs: read
`safety` (elections, logs, disks), `durable_log_view`, `effects`, `members`, `reports`, `resources`, and
`observers`, which feeds them. Of what clients saw: `history` (lists, exactly) and, for histories of any
origin, `records`, `models` and `linearizability`. `rare_paths`, `probes` and `patching` count which rare
paths a campaign takes.

Never: changes a run, or shares code with what it checks.
"""
