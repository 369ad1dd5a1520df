"""What must hold of one server, at any time and from one step to the next.

`check` raises `InvariantViolation`, also under `python -O`. Tests and the simulator call it after every
step; the runtime does so when asked to. Properties of a whole cluster need an observer that sees all
members: `barque.testing.checkers`.
"""

from typing import NoReturn

import msgspec

from barque.core.configuration import may_change
from barque.core.state import RaftState, Server
from barque.errors import InvariantViolation
from barque.types import Index, IndexTerm, ServerId, Term

_LEADER = RaftState.LEADER  # to look a member up in its class costs ten times as much


class Facts(msgspec.Struct, frozen=True, gc=False):
    """The facts that `check` compares. Take them before a step."""

    state: RaftState
    term: Term
    leader_id: ServerId | None
    voted_for: ServerId | None
    commit_index: Index
    last_applied: Index
    last: IndexTerm


def observe(server: Server) -> Facts:
    """The facts of this moment."""
    return Facts(
        server.raft_state,
        server.current_term,
        server.leader_id,
        server.voted_for,
        server.commit_index,
        server.last_applied,
        server.log.last_index_term(),
    )


def check(before: Facts, server: Server) -> Facts:
    """Compare a server after a step with what it was before; returns what it is now.

    Texts are made where something is wrong only: this runs after every step, and they cost more than it.
    """
    after = observe(server)
    _check_basic(server, after)
    if after.term < before.term:
        _violated(server, f"the term fell from {before.term} to {after.term}")
    given = before.voted_for if after.term == before.term else None
    if given is not None and after.voted_for is not given and after.voted_for not in (given, server.id):
        _violated(server, f"the vote of term {after.term} went from {given} to {after.voted_for}")
    if after.leader_id is not before.leader_id and after.term == before.term:
        _check_one_leader(server, before.leader_id, after.leader_id)
    if after.commit_index < before.commit_index:
        _violated(server, "the commit index fell")
    if after.last_applied < before.last_applied:
        _violated(server, "last_applied fell")
    if before.state is _LEADER and after.state is _LEADER:
        if after.term != before.term:
            _violated(server, "a leader changed its term and still leads")
        if after.last.index < before.last.index:
            _violated(server, "a leader shortened its log (§3.5)")
    return after


def _check_one_leader(server: Server, before: ServerId | None, after: ServerId | None) -> None:
    """Election safety (§3.4): a server follows at most one leader in a term."""
    if before is not None and after is not None and before != after:
        _violated(server, f"{before} and {after} both lead in term {server.current_term}")


def _check_basic(server: Server, now: Facts) -> None:
    """Properties of one state."""
    if now.last_applied > now.commit_index:
        _violated(server, "applied beyond the commit index")
    if now.commit_index > now.last.index:
        _violated(server, "committed beyond the end of the log")
    if server.log.last_written().index > now.last.index:
        _violated(server, "written beyond the end of the log")
    if now.last.term > now.term:
        _violated(server, "an entry from a future term")
    if now.state is not server.role.state:
        _violated(server, f"its role is that of state {server.role.state}")
    if now.state is _LEADER:
        _check_leader(server, now)
    _check_configuration(server, now)


def _check_leader(server: Server, now: Facts) -> None:
    if server.leader_id != server.id:
        _violated(server, "a leader that follows another")
    if now.voted_for is not None and now.voted_for != server.id:
        _violated(server, "a leader that voted for another")
    end = now.last.index + 1
    for member, peer in server.cluster.items():
        if not peer.match_index < peer.next_index <= end and member != server.id:  # ours is void
            wrong = "next beyond the log" if peer.next_index > end else "match ≥ next"
            _violated(server, f"{member}: {wrong}")


def _check_configuration(server: Server, now: Facts) -> None:
    """MEMB-03: the log's newest configuration is in force, and an uncommitted one can be undone."""
    position = server.cluster_index_term
    if position.index > now.last.index:
        _violated(server, "goes by a configuration beyond the end of its log")
    term = server.log.fetch_term(position.index)
    if term is not None and term != position.term:
        _violated(server, "goes by a configuration that its log does not hold")
    if position.index > now.commit_index:
        if server.previous_cluster is None:
            _violated(server, "cannot undo its configuration")
        if now.state is _LEADER and may_change(server):
            _violated(server, "permits a second change at a time")


def _violated(server: Server, what: str) -> NoReturn:
    raise InvariantViolation(f"{server.id} ({server.raft_state}, term {server.current_term}): {what}")
