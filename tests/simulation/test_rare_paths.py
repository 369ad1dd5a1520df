"""Whole nodes take these rare paths and keep Ra's rules in simulations, on production's performer and log."""

import functools
from collections import Counter
from collections.abc import Mapping

import pytest

from barque.testing.checkers.probes import PROBES, watched
from barque.testing.checkers.rules import RULES, watched_rules
from barque.testing.sim.simulator import simulate

PATHS = (
    "a vote splits, and the candidate starts another term",
    "a member starts another round of pre-votes",
    "a voter refuses, because it voted for another candidate",
    "a voter refuses, because the candidate's log is behind",
    "a voter with a better log campaigns itself",
    "a result of an earlier round of pre-votes arrives",
    "a node comes back, and a candidate asks its members again",
    "a message of a higher term deposes a leader",
    "a follower lacks the entries before an RPC",
    "a follower has another entry at the previous index",
    "a follower replaces conflicting entries",
    "an RPC proves a part of the log, which the follower acknowledges",
    "a follower already has all entries of an RPC",
    "a refusal names the place where the logs meet",
    "a majority has an entry of an earlier term, which the leader must not count",
    "a waiting follower asks again",
    "a follower has missed a commit index",
    "a leader cannot write its log, and offers the leadership",
    "a leader suspects that it has lost its quorum",
    "a leader without a quorum steps down",
    "a leader answers that an outcome is unknown",
    "a leader hands over",
    "a transfer is refused: the target lags",
    "a read waits for the noop of the term",
    "one round proves several reads",
    "a leader cuts a batch of low priority",
    "a leader is removed",
    "a waiting member answers a trial election",
    "a leader hears a trial election, and asserts itself",
    "a failed transfer waits before the next attempt",
    "a snapshot is tried again after a pause",
    "a leader that asserts itself tries a snapshot again",
    "a member to whom a snapshot is sent is further than thought",
    "a piece of a snapshot comes twice",
    "the first entry of a term goes through a full pipeline",
    "a tick asks a stale peer with one entry",
    "messages wait for the sync of a vote",
    "a stopping node hands over its leaderships",
    "a server learns that it was removed",
    "a message of another incarnation arrives",
    "pending entries are written again",
)
"""The paths that the parity page names as evidence."""
RULES_MET = (
    *("L-4", "L-12", "L-17", "L-21", "L-25", "L-29", "L-32"),
    *("C-5", "C-9", "C-10", "C-11", "C-18"),
    *("P-3", "P-4", "P-11", "F-4", "F-11", "F-14", "F-16"),
    *("S-2", "S-7", "S-9", "S-13", "W-1", "W-5"),
)
"""The rules that the parity page names as met. The others take rarer luck, and have tests of their own."""
pytestmark = pytest.mark.xdist_group("rare paths")  # one process counts for all of these tests
SEEDS = (514, 635, 533, 502, 515, 505, 659, 504, 526, 530, 584, *range(505, 560))
"""The first few take all paths; the others step in when a change of the simulator moves the luck of those."""


@functools.cache
def taken() -> tuple[Mapping[str, int], str]:
    """How often seeds took each path, and met each rule, until all were seen; or what went wrong."""
    counts: Counter[str] = Counter()
    for seed in SEEDS:
        with watched() as reached, watched_rules() as rules:
            report = simulate(seed)
        if report.violation is not None or rules.broken:
            return counts, f"seed {seed}: {rules.broken[:1] or report}"
        counts += reached + rules.applied
        if all(counts[name] for name in (*PATHS, *RULES_MET)):
            break
    return counts, ""


def test_whole_nodes_take_this_path() -> None:
    """Each path is taken by one of the seeds, and no checker objects."""
    assert set(PATHS) <= set(PROBES)
    counts, wrong = taken()
    assert not wrong, wrong
    assert [path for path in PATHS if not counts.get(path)] == []


def test_whole_nodes_keep_this_rule() -> None:
    """They meet each rule with one of the seeds, and no step breaks this or another rule."""
    assert set(RULES_MET) <= {each.id for each in RULES}
    counts, wrong = taken()
    assert not wrong, wrong
    assert [rule for rule in RULES_MET if not counts.get(rule)] == []
