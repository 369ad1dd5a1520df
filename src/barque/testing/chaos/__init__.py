"""Chaos over real node processes: what `barque nemesis` does. Public.

May import everything but the command line. Read in this order: `nodes` (processes and their files), `proxy`
(the links between them), `clients` (what is asked, and recorded), `faults`, `presets` and `schedule`
(what happens when), `verdict` (who judges), `run` (one run from its beginning to its end).

Never: runs in a simulator, so it reads clocks, opens files and starts processes itself; sends a signal
to a process that it has not started.
"""
