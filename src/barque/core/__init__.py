"""The Raft server: turns one message into effects. No clock, socket, disk, log line or chance.

May import `machine`, `types` and `errors`; everything above it is unknown here.

Read in this order: `entries` (what is replicated), `messages` with `events`, `effects`, `log_contract`;
`server` with `states`, `peers` and `roles` (the state); `step` (the entry) and `table`; then a role
(`follower`, `pre_vote`, `candidate`, `leader`, `await_condition`, `receive_snapshot`: which message goes
where) and the sections (what happens): `elections`, `replication` with `progress` and `reception`,
`commitment`, `applying`, `commands`, `queries`, `check_quorum`, `membership` with `configuration`,
`termination`, `transfer`, `snapshot_sending`, `snapshot_receiving`. Arithmetic is in `quorum`, what a
server may wait for in `conditions`, what must always hold in `invariants`.

Never: reads the time, draws a random number, performs I/O, or sleeps.
"""
