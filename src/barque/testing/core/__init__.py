"""Core servers without nodes: driven by hand, or on virtual time from a seed.

May import `barque.core`, `barque.machine`, and of the runtime only its rules about time; besides them
`checkers`, the order of faults (`faults.fault_schedule`) and the loop's exceptions. Read in this order:
`memory_log` and `memory_snapshots` (what a server writes to), `member` (one server, and who performs its
effects), `observer` (the invariants of a whole cluster, checked after each step), `cluster` (members and the
messages between them, delivered by hand); then, on virtual time, `world`, `swarm` (what a seed draws),
`simulator`, and `machine_simulator` (a user's machine in such a world).

Never: opens a file, starts an event loop, or encodes a message.
"""
