"""The Redis protocol (RESP2 and RESP3) for a cluster of `KvMachine`.

May import: what `barque.gateways` may.

Read in this order:

- `parser`, `encoder`: bytes to requests, replies to bytes; sans-IO
- `commands`: the commands that reach the cluster, one row each
- `session`: the commands that the node answers itself; the table of all commands
- `connection`: one client; the order of its requests and replies
- `server`: the listening socket, limits and counters

Never does: reply OK to a write that may not have happened, run a command that it refused, or let one
client's input, silence or slowness hurt another.
"""
