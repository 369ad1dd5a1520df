"""The Raft server: turns one message into effects. No clock, socket, disk, log line or chance.

May import `machine`, `types` and `errors`; everything above it is unknown here.

Read in this order: `entries` (what is replicated), `messages`, `effects`, `log_contract`,
`server` (the state), `step` (the entry), then a role (`follower`, `pre_vote`, `candidate`,
`leader`, `await_condition`: which message goes where) and the sections (what happens):
`elections`, `replication` with `consistency`, `commitment`, `applying`, `commands`, `queries`,
`transfer`, `snapshotting`. Arithmetic is in `quorum`, what a server may wait for in
`conditions`, what must always hold in `invariants`.

Never: reads the time, draws a random number, performs I/O, or sleeps.
"""
