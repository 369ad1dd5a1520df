"""Bugs on purpose: each is one that some Raft has had, or that ours could have, planted for a `with`.

`mutant_runner` measures which ring of tests finds which of them, and after how much work: so much is a
clean run worth. docs/reference/mutants.md has the table. Rows are those of docs/reference/historical-bugs.md.
"""

from tests.kit import mutants_core, mutants_effects, mutants_elections, mutants_members, mutants_node
from tests.kit.mutant_registry import MUTANTS, Mutant, planted

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
