"""Planted bugs: each is a mistake that a Raft library has made, and each is caught by the random schedules.

A test that never fails shows nothing; this shows that the walks of `test_core_random` and the
cluster's observer would notice. The numbers are those of the checklist of historical bugs.

Counting an answer of a former term (16) is not among them: with the term of the last entry
compared as well, it moves a match index only to entries of earlier terms, which are never
committed by counting. The present term is demanded nevertheless.
"""

import contextlib
import importlib.util
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest
from tests.kit.scenarios import play

from barque.core import append_entries, commitment, elections, leader, queries, step, transitions
from barque.core.effects import Effect, PersistTermAndVote
from barque.core.messages import AppendEntriesReply, AppendEntriesRpc, HeartbeatReply, Queries, Written
from barque.core.state import Server
from barque.errors import BarqueError
from barque.testing.checkers.patching import replace
from barque.testing.core.memory_log import MemoryLog
from barque.types import Index, IndexTerm

_spec = importlib.util.spec_from_file_location("core_walks", Path(__file__).with_name("test_core_random.py"))
assert _spec is not None
assert _spec.loader is not None
_walks = importlib.util.module_from_spec(_spec)
sys.modules["core_walks"] = _walks
_spec.loader.exec_module(_walks)

SEEDS_MAX = 1_000
FIRST_SEED = {
    "late_reports_confirm_by_index": 280,
    "an_empty_rpc_drops_the_rest": 90,
    "reads_ask_nobody": 200,
    "votes_are_not_stored": 38,
    "earlier_terms_are_committed_by_counting": 34,
}
"""Where to begin, to be quick; a change of the core may make the walk go elsewhere."""
Plant = AbstractContextManager[object]


def votes_are_not_stored() -> Plant:
    """1: after a crash a member votes again."""
    right = transitions.adopt_term_and_vote

    def wrong(subject: Server, term: Any, voted_for: Any) -> list[Effect]:
        return [PersistTermAndVote(e.term, None) for e in right(subject, term, voted_for)]  # type: ignore[union-attr]

    return replace(right, wrong)


def earlier_terms_are_committed_by_counting() -> Plant:
    """19: Figure 8."""

    def wrong(subject: Server) -> bool:
        candidate = commitment.agreed(commitment.match_indexes(subject))
        moved = candidate > subject.commit_index
        subject.commit_index = max(subject.commit_index, Index(candidate))
        return moved

    return replace(commitment.advance_commit_index, wrong)


def followers_commit_what_the_leader_has() -> Plant:
    """20: although their own end is not proved."""
    right = append_entries._nothing_new

    def wrong(subject: Server, rpc: AppendEntriesRpc, matched: Index) -> list[Effect]:
        last = subject.log.last_index_term().index
        return right(subject, rpc, matched) + append_entries.advance_commit(subject, rpc.leader_commit, last)

    return replace(right, wrong)


def the_leader_counts_what_it_has_not_written() -> Plant:
    """43: its memory instead of its disk."""

    def wrong(subject: Server) -> list[Index]:
        others = [peer.match_index for _, peer in subject.peers if peer.voter]
        return [subject.log.last_index_term().index, *others]

    return replace(commitment.match_indexes, wrong)


def followers_acknowledge_what_they_have_not_written() -> Plant:
    """21, 23: the end of the log instead of the last written entry."""

    def wrong(subject: Server, *, success: bool) -> AppendEntriesReply:
        last = subject.log.last_index_term()
        return AppendEntriesReply(
            subject.id, subject.current_term, success, subject.log.next_index(), last.index, last.term
        )

    return replace(append_entries.append_entries_reply, wrong)


def late_reports_confirm_by_index() -> Plant:
    """22: a written event of entries that were overwritten."""

    def wrong(self: MemoryLog, event: Written) -> None:
        last = min(event.last, self.last_index_term().index)
        if event.first <= self._written.index + 1 and last > self._written.index:
            self._written = IndexTerm(Index(last), self.fetch_term(Index(last)) or event.term)

    return mock.patch.object(MemoryLog, "_on_written", wrong)


def an_empty_rpc_drops_the_rest() -> Plant:
    """26: a late one takes back what is acknowledged."""
    right = append_entries._nothing_new

    def wrong(subject: Server, rpc: AppendEntriesRpc, matched: Index) -> list[Effect]:
        if not rpc.entries and subject.last_applied <= matched < subject.log.last_index_term().index:
            subject.log.set_last_index(matched)
        return right(subject, rpc, matched)

    return replace(right, wrong)


def reads_ask_nobody() -> Plant:
    """33: a leader that lost its majority answers."""

    def wrong(subject: Server, _role: Any, pending: list[Any]) -> list[Effect]:
        return [effect for waiting in pending for effect in queries._answer(subject, waiting)]

    return replace(queries._start_round, wrong)


def reads_do_not_wait_for_the_noop() -> Plant:
    """34: a new leader's commit index may be behind."""
    right = queries.on_queries

    def wrong(subject: Server, asked: Any) -> list[Effect]:
        role = subject.leader_role()
        kept, role.established = role.established, True
        done = right(subject, asked)
        role.established = kept
        return done

    return replace(right, wrong)


def reads_are_confirmed_by_an_older_round() -> Plant:
    """35: whatever question a member answers, it is taken for the newest."""
    right = queries.on_heartbeat_reply

    def wrong(subject: Server, answer: HeartbeatReply) -> list[Effect]:
        newest = HeartbeatReply(answer.sender, subject.query_index, answer.term)
        return right(subject, newest)

    return replace(right, wrong)


def stale_ends_count() -> Plant:
    """A success is counted by its index alone, whatever term the follower has there."""
    right = commitment._note

    def wrong(subject: Server, peer: Any, reply: AppendEntriesReply) -> bool:
        if not reply.success:
            return right(subject, peer, reply)
        index = min(reply.last_index, subject.log.last_index_term().index)
        term = subject.log.fetch_term(index)
        return right(subject, peer, msgspec.structs.replace(reply, last_index=index, last_term=term))

    return replace(right, wrong)


def any_log_is_good_enough() -> Plant:
    """§3.6.1 forgotten: a candidate without the committed entries wins."""
    return mock.patch.object(Server, "is_up_to_date", return_value=True)


def answers_come_before_the_disk() -> Plant:
    """3: the vote leaves before it is stored."""
    right = elections.on_request_vote

    def wrong(subject: Server, rpc: Any) -> list[Effect]:
        return right(subject, rpc)[::-1]

    def late(effects: list[Effect]) -> list[Effect]:
        return sorted(effects, key=lambda effect: isinstance(effect, PersistTermAndVote))

    plants = contextlib.ExitStack()
    plants.enter_context(replace(right, wrong))
    plants.enter_context(replace(step._store_once, late))
    return plants


def the_noop_is_forgotten() -> Plant:
    """§3.6.2: without it a new leader commits nothing until somebody sends a command."""
    return replace(elections.first_noop, lambda _subject: [])


BUGS: list[Callable[[], Plant]] = [
    votes_are_not_stored,
    earlier_terms_are_committed_by_counting,
    followers_commit_what_the_leader_has,
    the_leader_counts_what_it_has_not_written,
    followers_acknowledge_what_they_have_not_written,
    late_reports_confirm_by_index,
    an_empty_rpc_drops_the_rest,
    reads_ask_nobody,
    reads_do_not_wait_for_the_noop,
    stale_ends_count,
    any_log_is_good_enough,
    answers_come_before_the_disk,
    the_noop_is_forgotten,
]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_caught(bug: Callable[[], Plant]) -> None:
    """Some walk fails: by the observer, an invariant, a history, or for want of progress."""
    first = FIRST_SEED.get(bug.__name__, 0)
    with bug():
        for seed in range(first, first + SEEDS_MAX):
            try:
                _walks.Walk(seed).run(1_000)
            except (BarqueError, AssertionError) as noticed:
                print(f"{bug.__name__}: seed {seed}: {str(noticed)[:120]}")
                return
    pytest.fail(f"{bug.__name__} survives {SEEDS_MAX} schedules")


def test_a_read_confirmed_by_an_older_round_is_caught() -> None:
    """The window is too narrow for the walks (2,000 schedules do not find it), so a transcript has it."""
    transcript = Path(__file__).parents[1] / "scenarios" / "old_round.txt"
    text = transcript.read_text()
    assert play(text) == text
    with reads_are_confirmed_by_an_older_round():
        assert play(text) != text
    assert play(text) == text


def test_a_plant_that_changes_nothing_is_an_error() -> None:
    """A function that nobody in the core refers to cannot be replaced; and what was replaced comes back."""
    with pytest.raises(LookupError, match=r"nothing in barque\.core"), replace(play, print):
        pass
    held = leader.LEADER[Queries]
    with replace(held, print):
        assert leader.LEADER[Queries] is print
        assert queries.on_queries is leader.on_queries is print
    assert leader.LEADER[Queries] is queries.on_queries is leader.on_queries is held
