"""Bytes between nodes, and between clients and nodes.

May import: `types`, `errors`, `config`, `machine` and `core` (for messages and entry batches); never `log`,
`runtime` or anything above. `TcpTransport` and `MemoryTransport` keep the same contract.

Read in this order: `contract` (what the node gets and gives), `framing` (bytes to frames), `wire` (frames to
messages), `authorization` (what a role may send), `secret`, `tls` and `handshake` (who is there),
`connection` (one socket), `tcp` (all of a node's), `client_link` (a client's end). Page:
docs/protocol/wire.md.

It never blocks, never retries a message, never decodes anything but a hello before the other side
has proved who it is, and never takes memory because a header asked for it. A message
that cannot be delivered is dropped and counted: Raft repairs that, and a queue without end would not.
"""
