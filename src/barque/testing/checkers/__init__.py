"""Judges of runs and of histories. They see what servers, nodes and clients do, and know what must hold.

May import everything but the command line and `chaos`. Read in this order: `safety` (elections, logs, disks),
`durable_log_view`, `effects`, `members`, `reports`, `resources`, and `observers`, which feeds them; of what
clients saw, `history` (lists, exactly) and, for histories of any origin, `records`, `models` and
`linearizability`. `rare_paths` and `probes`, with `patching`, count what a campaign has reached.

Never: changes a run, or shares code with what it checks.
"""
