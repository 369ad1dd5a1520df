"""What must hold of one server, at any time and from one step to the next.

`check` raises `InvariantViolation`, also under `python -O`. Tests and the simulator call it
after every step; the runtime does so when asked to. Properties of a whole cluster need a
bystander who sees all members: `barque.testing.checkers`.
"""

from typing import NamedTuple

from barque.core.roles import LeaderRole, ReceivingRole, WaitingRole
from barque.core.server import RaftState, Server
from barque.errors import InvariantViolation
from barque.types import Index, IndexTerm, ServerId, Term


class Facts(NamedTuple):
    """What `check` compares; take it before a step."""

    state: RaftState
    term: Term
    voted_for: ServerId | None
    commit_index: Index
    last_applied: Index
    last: IndexTerm


def observe(server: Server) -> Facts:
    """The facts of this moment."""
    return Facts(
        server.raft_state,
        server.current_term,
        server.voted_for,
        server.commit_index,
        server.last_applied,
        server.log.last_index_term(),
    )


def check(before: Facts, server: Server) -> None:
    """Compare a server after a step with what it was before."""
    _check_basic(server)
    after = observe(server)
    _demand(server, after.term >= before.term, f"the term fell from {before.term} to {after.term}")
    if after.term == before.term and before.voted_for is not None:
        kept = after.voted_for in (before.voted_for, server.id)
        _demand(
            server, kept, f"the vote of term {after.term} went from {before.voted_for} to {after.voted_for}"
        )
    _demand(server, after.commit_index >= before.commit_index, "the commit index fell")
    _demand(server, after.last_applied >= before.last_applied, "last_applied fell")
    if before.state is RaftState.LEADER and after.state is RaftState.LEADER:
        _demand(server, after.term == before.term, "a leader changed its term and still leads")
        _demand(server, after.last.index >= before.last.index, "a leader shortened its log (§3.5)")


def _check_basic(server: Server) -> None:
    """Properties of one state."""
    last, written = server.log.last_index_term(), server.log.last_written()
    _demand(server, server.last_applied <= server.commit_index, "applied beyond the commit index")
    _demand(server, server.commit_index <= last.index, "committed beyond the end of the log")
    _demand(server, written.index <= last.index, "written beyond the end of the log")
    _demand(server, last.term <= server.current_term, "an entry from a future term")
    if server.raft_state is RaftState.LEADER:
        _demand(server, isinstance(server.role, LeaderRole), "a leader without a leader's state")
        _demand(server, server.leader_id == server.id, "a leader that follows another")
        _demand(server, server.voted_for in (server.id, None), "a leader that voted for another")
        for member, peer in server.peers():
            _demand(server, peer.match_index < peer.next_index, f"{member}: match ≥ next")
            _demand(server, peer.next_index <= last.index + 1, f"{member}: next beyond the log")
    if server.raft_state is RaftState.AWAIT_CONDITION:
        _demand(server, isinstance(server.role, WaitingRole), "waiting for nothing")
    if server.raft_state is RaftState.RECEIVE_SNAPSHOT:
        _demand(server, isinstance(server.role, ReceivingRole), "receiving nothing")
    _check_configuration(server)


def _check_configuration(server: Server) -> None:
    """MEMB-03: the newest configuration of the log is in force, and one that may go can be undone."""
    position, last = server.cluster_index_term, server.log.last_index_term().index
    _demand(server, position.index <= last, "goes by a configuration beyond the end of its log")
    term = server.log.fetch_term(position.index)
    _demand(server, term in (None, position.term), "goes by a configuration that its log does not hold")
    if position.index > server.commit_index:
        _demand(server, server.previous_cluster is not None, "cannot undo its configuration")
    if server.raft_state is RaftState.LEADER and server.cluster_change_permitted:
        _demand(server, position.index <= server.commit_index, "permits a second change at a time")


def _demand(server: Server, holds: bool, what: str) -> None:
    if not holds:
        raise InvariantViolation(f"{server.id} ({server.raft_state}, term {server.current_term}): {what}")
