"""Commands and reads from outside a cluster: routing, deadlines, typed outcomes.

May import `runtime` and everything below. Read in this order: `outcomes` (what an answer may
be), `connection` (one connection and what waits on it), `routing` (which node to ask),
`client` (the asyncio API), `local` (the same inside a node's process), `sync` (for threads).

Never: sends a command again that may have happened.
"""
