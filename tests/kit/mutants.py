"""Planted bugs: each is one that some Raft has had, or that Barque could have. `planted` plants one.

`mutant_runner` measures which kind of test finds which bug, and after how much work: that is what a clean run
is worth. docs/reference/mutants.md has the table; its rows refer to docs/reference/historical-bugs.md.
"""

from tests.kit import (
    mutants_captures,
    mutants_clocks,
    mutants_core,
    mutants_directories,
    mutants_effects,
    mutants_elections,
    mutants_members,
    mutants_node,
)
from tests.kit.mutant_registry import MUTANTS, Mutant, planted

__all__ = [
    "MUTANTS",
    "Mutant",
    "mutants_captures",
    "mutants_clocks",
    "mutants_core",
    "mutants_directories",
    "mutants_effects",
    "mutants_elections",
    "mutants_members",
    "mutants_node",
    "planted",
]
