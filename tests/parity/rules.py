"""The rules of Ra's `handle_…` functions, message by message, and what shows them on whole nodes.

Core tests name rules in their docstrings. A rule is `core only` unless `ON_NODES` has evidence through
production for it, or decision 1 names it.
"""

from collections.abc import Callable, Iterable

from tests.parity.catalogue import decided_places
from tests.runtime.test_rules_by_message import CASES, FORCED
from tests.simulation.test_rare_paths import RULES_MET

COUNTS = {"L": 37, "C": 18, "P": 12, "F": 21, "S": 13, "W": 6}
SECTIONS = {
    "L": "the leader",
    "C": "the candidate",
    "P": "pre-vote",
    "F": "the follower",
    "S": "receiving a snapshot",
    "W": "waiting for a condition",
}
RULES = [f"{letter}-{number}" for letter, count in COUNTS.items() for number in range(1, count + 1)]

UNTESTED = {
    "L-37": "there is no unknown message: each role's table is total, and the wire refuses other bytes",
    "F-21": "as L-37",
    "C-8": "as L-37; late answers are ignored",
}
"""Rules that have nothing to be tested, and why. Rules that are kept in another way have tests."""

_MET = "simulation/test_rare_paths.py::test_whole_nodes_keep_this_rule"
_TOLD = "runtime/test_rules_by_message.py::test_members_keep_the_rules"
_STRANGER = "runtime/test_rules_by_message.py::test_a_stranger_is_not_counted"

ON_NODES: dict[str, str] = {
    **{rule: _TOLD for cases in (CASES, *FORCED) for rule, _role, _said in cases},
    **dict.fromkeys(RULES_MET, _MET),
    **dict.fromkeys(("L-1", "L-3", "L-5"), _STRANGER),
    "L-2": "row:REPL-11",
    "L-6": "row:REPL-12",
    "L-7": "row:CMD-04",
    "L-8": "row:MEMB-12",
    "L-10": "row:REPL-03",
    "L-11": "row:COMMIT-01",
    "L-13": "row:AUX-02",
    "L-15": "row:SEND-09",
    "L-16": "row:REPL-07",
    "F-13": "row:RECV-08",
    "S-1": "runtime/test_snapshots_on_nodes.py::test_entries_that_a_machine_keeps_survive_and_travel",
    "S-3": "runtime/test_snapshots_on_nodes.py::test_entries_that_a_machine_keeps_survive_and_travel",
    "S-4": "row:SEND-03",
    "S-5": "row:RECV-08",
    "S-6": "row:RECV-08",
    "L-19": "path:a message of a higher term deposes a leader",
    "L-20": "row:ELEC-12",
    "L-22": "row:QRY-04",
    "L-23": "row:QRY-10",
    "L-24": "row:QRY-05",
    "L-26": "row:QRY-09",
    "L-28": "path:a message of a higher term deposes a leader",
    "L-30": "path:a message of a higher term deposes a leader",
    "L-31": "runtime/test_questions_on_nodes.py::test_a_leader_that_hears_of_a_trial_election_asserts_itself",
    "L-33": "row:VER-05",
    "L-34": "row:VER-04",
    "L-35": "row:XFER-01",
    "L-36": "row:MEMB-15",
    "C-1": "row:ELEC-23",
    "C-3": "bug:refusals_count",
    "C-15": "path:a vote splits, and the candidate starts another term",
    "P-1": "bug:pre_candidate_never_yields",
    "P-6": "row:ELEC-01",
    "P-7": "path:a result of an earlier round of pre-votes arrives",
    "P-8": "runtime/test_questions_on_nodes.py::test_a_member_that_stands_answers_others",
    "P-9": "path:a member starts another round of pre-votes",
    "F-1": "row:REPL-01",
    "F-2": "bug:old_leader_obeyed",
    "F-3": "row:QRY-07",
    "F-5": "row:REPL-18",
    "F-6": "runtime/test_questions_on_nodes.py::test_a_follower_answers_a_trial_election",
    "F-8": "bug:votes_twice_a_term",
    "F-9": "row:ELEC-13",
    "F-17": "row:ELEC-01",
    "F-18": "row:MEMB-15",
    "F-19": "row:VER-05",
    "W-4": "row:TIME-02",
    "W-6": "row:CORE-06",
}
"""Evidence through production, as in `catalogue`."""


def decisions_on(ids_in: Callable[[str], Iterable[str]]) -> dict[str, list[str]]:
    """The lines of decision 1 that name each rule."""
    found: dict[str, list[str]] = {}
    for place in sorted(decided_places()):
        for name in ids_in(place):
            found.setdefault(name, []).append(place)
    return found


def verdict_on(rule: str, decided: dict[str, list[str]]) -> str:
    """Judge a rule: `works`, `deviation` or `core only`."""
    if rule in ON_NODES:
        return "works"
    return "deviation" if rule in decided or rule in UNTESTED else "core only"
