"""What performs the effects that the core asks for: nodes, systems, timers, monitors, failure detection.

May import: everything below it (`types`, `errors`, `config`, `machine`, `core`, `log`, `transport`); never
`client`, `gateways` or `cli`.

Read in this order: `clock` and `timers` (time), `failure_detector` (who is there), `leaderboard` and
`counters` (what is known and what was done); `server_process` and `executor` (one server), `directory`
and `system` (all of a data directory); `ranges` and `front` (the way in and out), `calls`, `admin`,
`admin_members` and `reporting` (administration); `inbox` and `outlets` (what goes between servers); then
`node`, which puts them together.

It decides nothing about Raft: a server's handlers do. It keeps the order of their effects, and it never
reads the time, opens a file or sends a byte except through `Clock`, the disk and the transport.
"""
