"""HTTP for programs that watch a node: its figures in Prometheus' text, its health, its readiness.

May import: what `barque.gateways` may, and a `barque.runtime.node.Node` to look at. Needs `barque[http]`.

Read in this order:

- `exposition`: families of samples as text
- `names`: every metric, and what it tells
- `metrics`: the figures of a node
- `readiness`: may this node be given work?
- `server`: the listening socket, the three paths, and what a client may take of the node

Never does: change anything, work on one request for longer than a slice of a turn, or keep more than a few
connections, each for a bounded time.
"""
