"""The Redis protocol (RESP2 and RESP3) for a cluster of `KvMachine`.

May import: what `barque.gateways` may.

Read in this order:

- `parser`, `encoder`: bytes to requests, replies to bytes; sans-IO
- `command`, `session`: what a command is, and one connection as commands see it
- `data_commands` (they reach the cluster), `node_commands`, `client_command`, `table`: all commands
- `transaction`: what stands between MULTI and EXEC
- `memory`, `limits`: how much memory clients may take, and how they take turns
- `pending`, `runs`, `connection`: one client; the order of its requests and replies, and its socket
- `server`, `info`: the listening socket, counters and facts

Never does: reply OK to a write that may not have happened, run a command that it refused, or let one
client's input, silence or slowness hurt another.
"""
