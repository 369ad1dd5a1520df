"""The Raft server: turns one message into effects. No clock, socket, disk, log line or chance.

May import `machine`, `types` and `errors`; everything above it is unknown here.

Read in this order: `step` (how a step works), then `terms` (the term rule) and `transitions` (every change
of role); `entries`, `messages` with `events`, `effects` and `log_contract` (the vocabulary); `roles` and
`state` (what a server keeps). Then the role modules, which say where each message goes (`follower`,
`candidate`, `leader`, `await_condition`, `receive_snapshot`, `terminating`; `dispatch` and `not_leader`
make their tables), and the rules, which say what happens: `elections`, `append_entries`, `replication`,
`commitment`, `applying`, `commands`, `queries`, `check_quorum`, `configuration`, `membership`, `transfer`,
`versions`, `snapshots`, `aux_machine`. Arithmetic is in `quorum`, what must always hold in `invariants`,
facts for people in `overview`. A reader who knows Ra begins with `ra_server`.

Never: reads the time, draws a random number, performs I/O, or sleeps.
"""
