"""Core servers without nodes: driven by hand, or on virtual time from a seed.

May import `core`, `machine`, and of the runtime its rules about time; of `testing` only `checkers`, the order
of faults (`faults.fault_schedule`) and an exception of `sim.loop`. Read in this order: `memory_log` and
`memory_snapshots` (what a server writes to), `member` (one server, and the performer of its effects),
`observer` (the invariants of a whole cluster, checked after each step), `cluster` (members and the messages
between them, delivered by hand); then, on virtual time, `world`, `swarm` (what a seed draws), `simulator`,
and `machine_simulator` (a user's machine in such a world).

Never: opens a file, starts an event loop, or encodes a message.
"""
