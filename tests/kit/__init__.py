"""What tests of Barque itself share, and nobody else needs: planted bugs, what looks for them, and scripts.

Read in this order: `scenarios` (transcripts of core clusters), `scripts` (histories as code), `search` (all
interleavings within bounds), `topologies` (every graph of links); `mutant_registry`, the `mutants…` (planted
bugs) and `mutant_runner` (which ring of tests finds which of them); `storage` (the log layer on a simulated
disk).

Never: imported by `barque`.
"""
