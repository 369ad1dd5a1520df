"""Doors for clients that do not speak Barque's own protocol.

May import: `barque.types`, `barque.errors`, `barque.machine`, `barque.client` and, of the runtime,
`submitter` and `clock` alone: a gateway reaches clusters through a `Submitter` and nothing else. `http` asks
no cluster for anything; it looks at the node itself.

Read in this order:

- `resp`: the Redis protocol, for the key-value machine
- `http`: figures and health, for programs that watch a node

Never does: decide anything about Raft, keep state that a restart would miss, or answer for the
cluster. An outcome that is unknown is reported as unknown.
"""
