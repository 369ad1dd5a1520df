"""What the tests of Barque share and its users do not need: scripts, searches and planted bugs.

Read in this order: `scenarios` and `words` (transcripts of core clusters), `scripts` (histories as code),
`search` (all interleavings within bounds), `topologies` (every graph of links); `mutant_registry` and the
modules `mutants…` (planted bugs), `mutant_runner` (which kind of test finds which bug, and how soon);
`storage` (the log layer on a simulated disk).

Never: imported by `barque`.
"""
