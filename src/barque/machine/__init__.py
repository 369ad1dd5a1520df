"""What users implement: a deterministic state machine, and the effects it may ask for.

May import: `barque.types` and `barque.errors`.

Read in this order:

- `machine`: the contract, `Machine.apply` above all
- `effects`: what `apply` may ask for beside its reply
- `simple`: a machine from one function
- `kv_commands`, `kv`: the key-value store that the node ships with; its state (`kv_state`), what commands
  do (`kv_writes`) and queries answer (`kv_reads`); patterns (`kv_glob`) and the order of scans (`kv_scan`)
- `snapshot_module`: how a machine keeps its snapshots in files of its own

Never does: read a clock, draw a random number, iterate over a set, or touch a socket, or a file but those of
a snapshot. What a machine computes depends on its commands alone, or members would disagree.
"""
