"""Print docs/reference/mutants.md: `python -m tests.simulation.kill_table [seconds a ring [planted bug …]]`.

With names of planted bugs, print only their rows.
"""

import sys
from pathlib import Path

from tests.kit.mutant_runner import hunt, rings_for, row, table
from tests.kit.mutants import MUTANTS
from tests.kit.scenarios import play

SCENARIOS = Path(__file__).parents[1] / "scenarios"


def transcripts() -> dict[str, str]:
    """The texts of all transcripts that are right without a planted bug, by name."""
    texts = {path.stem: path.read_text() for path in sorted(SCENARIOS.glob("*.txt"))}
    return {name: text for name, text in texts.items() if play(text) == text}


if __name__ == "__main__":
    budget_s = float(sys.argv[1]) if sys.argv[1:] else 15.0
    if sys.argv[2:]:
        for name in sys.argv[2:]:
            mutant = MUTANTS[name]
            kills = {ring: hunt(mutant, ring, budget_s, transcripts()) for ring in rings_for(mutant)}
            print(row(mutant, kills), flush=True)
    else:
        for line in table(transcripts(), budget_s):
            print(line, flush=True)
