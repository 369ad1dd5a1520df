"""The faults of a simulation: what goes wrong, when, and how it is repaired.

May import all of Barque but the command line; of `testing` only `sim` and `checkers`. Read in this order:
`fault_schedule` (the next fault and its time), `nemesis` (the faults of a run of whole nodes), and its
kinds: `network` and `bad_links`, `disk` and `bit_rot`, `process`, `clusters` (clusters and members that come
and go).

Never: judges a run, except that a fault may say what a node must do about it (`bit_rot`).
"""
