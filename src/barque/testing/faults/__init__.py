"""What goes wrong in a simulation, when, and how it is put right again.

May import everything but the command line and `chaos`. Read in this order: `fault_schedule` (which fault is
next, and when), `nemesis` (the faults of a run of whole nodes), and its kinds: `network` and `bad_links`,
`disk` and `bit_rot`, `process`, `clusters` (clusters and members that come and go).

Never: judges a run; but a fault may say what a node must do about it (`bit_rot`).
"""
