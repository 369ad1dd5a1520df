"""Performs the effects that the core asks for: nodes, systems, timers, monitors, failure detection.

May import: everything below it (`types`, `errors`, `config`, `machine`, `core`, `log`, `transport`); never
`client`, `gateways` or `cli`.

Read in this order: `clock`, `timers` and `turn` (time), `failure_detector`, `counters`; `server_process`,
`monitors` and `performer` (one server), `server_table`, `directory` and `system` (all of a data directory);
`pending_requests` and `requests` (the way in), `identity` and `dispatcher` (delivery), `client_session`;
`processes`; `function_calls`, `deferred_rounds` and `effect_sink` (where effects go), `liveness`; `node_rpc`,
`admin`, `admin_members` and `reporting` (administration); then `node`, which puts them together. Arrows point
that way back, never round.

It decides nothing about Raft: a server's handlers do. It keeps the order of their effects, and it never
reads the time, opens a file or sends a byte except through `Clock`, the disk and the transport.
"""
