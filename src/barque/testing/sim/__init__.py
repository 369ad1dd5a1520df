"""Whole nodes in one thread, on virtual time, network and disk, from one seed.

May import all of Barque but the command line; of `testing` only `faults` and `checkers`. Read in this order:
`loop` and `clock` (time and processes), `disk` and `process_disk`, `thread_writer`, `memory_transport` and
`network`; `timer_model`, `guests` (processes that it watches) and `test_machine` (the replicated machine),
`operations`, `sim_client` and `in_process_clients` (what clients ask for); Redis clients and their machine:
`redis_machine`, `redis_link`, `redis_clients`; `host` (one node and its machine), `clusters`, `swarm` (what a
seed draws), `transcript`, `simulator` (one run from its beginning to its end), `shrink`.

Never: reads a real clock, opens a real file or socket, or draws a random number that the seed does not fix.
"""
