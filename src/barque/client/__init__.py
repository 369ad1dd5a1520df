"""Commands and reads from outside a cluster: routing, deadlines, typed outcomes.

May import `transport`, the vocabulary of `core` (entries, messages) and everything below. Only `local`
imports `runtime`: it is the client inside a node's process, and no client program loads it.

Read in this order: `outcomes` (how a caller hears of its request), `requests` (what travels as one message,
and which parts are answered), `connection` (one connection and what waits on it), `routing` (which node to
ask), `results` (what administrative requests return), `client` (the asyncio API), `cluster` (the same for
one cluster), `url` (`barque.connect`), `sync` (for threads), `local` (inside a node's process).

Never: sends a command again that may have happened.
"""
