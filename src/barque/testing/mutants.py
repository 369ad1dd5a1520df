"""Bugs on purpose: each is one that some Raft has had, or that ours could have, planted for a `with`.

`rings` measures which ring of tests finds which of them, and after how much work: that is what clean runs
are worth. docs/reference/mutants.md has the table. Rows are those of docs/reference/historical-bugs.md.
"""

from barque.testing import mutants_core, mutants_effects, mutants_elections, mutants_members, mutants_node
from barque.testing.mutant_registry import MUTANTS, Mutant, planted

__all__ = [
    "MUTANTS",
    "Mutant",
    "mutants_core",
    "mutants_effects",
    "mutants_elections",
    "mutants_members",
    "mutants_node",
    "planted",
]
