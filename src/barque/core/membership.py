"""Who belongs to the cluster (§4; MEMB-01 to MEMB-17).

One member at a time is added, removed or changed. A configuration counts from the moment it is
in a log (§4.1), so old and new majorities overlap; the next change waits until this one is
applied, and the first of a term until the term's noop is (the 2015 bug of single-server
changes). An address and a uid together name a member: what returns under an old address with
other data is nobody.
"""

from typing import NamedTuple

from barque.core.commands import answer_append, append_entry, best_successor, take_wal_down
from barque.core.conditions import TransferDone
from barque.core.configuration import take_up
from barque.core.effects import (
    Applied,
    Effect,
    NextEvent,
    Rejected,
    Rejection,
    SendRpc,
    StartConditionTimeout,
    StopReason,
    StopServer,
)
from barque.core.elections import call_for_pre_vote
from barque.core.entries import EntryKind, encode_body, encode_cluster
from barque.core.events import ForceMemberChange
from barque.core.log_contract import WalDown
from barque.core.messages import DeleteCluster, JoinMember, LeaveMember, TimeoutNow
from barque.core.peers import Peer, records_of
from barque.core.replication import pipelined_rpcs
from barque.core.roles import WaitingRole
from barque.core.server import RaftState, Server, Transition
from barque.types import (
    NOBODY,
    ClientRef,
    Index,
    IndexTerm,
    MemberRecord,
    Membership,
    ReplyMode,
    ServerId,
    Term,
)

# --- the leader is asked -------------------------------------------------------------------

Change = JoinMember | LeaveMember | DeleteCluster


class _Asker(NamedTuple):
    """Who is told what became of a change, and when."""

    origin: ClientRef
    correlation: int
    reply_mode: ReplyMode


_NOBODY_ASKED = _Asker(NOBODY, 0, ReplyMode.NOREPLY)


def _asker(change: Change) -> _Asker:
    return _Asker(change.origin, change.correlation, change.reply_mode)


def on_join(server: Server, join: JoinMember) -> Transition:
    """MEMB-05: add a member, or change what one may do."""
    known = server.cluster.get(join.member)
    record = _record(server, join, known)
    problem = _problem_of(server, join, known, record)
    if problem is not None:
        return _refuse(server, _asker(join), problem)
    others = [r for r in records_of(server.cluster) if r.id != join.member]
    return _change(server, _asker(join), [*others, record])


def _record(server: Server, join: JoinMember, known: Peer | None) -> MemberRecord:
    """What the configuration is to say; a uid that is not named stays what it was."""
    uid = join.uid if join.uid is not None or known is None else known.uid
    target = Index(0)
    if join.membership is Membership.PROMOTABLE:
        target = server.log.next_index() if join.target is None else join.target
    return MemberRecord(join.member, uid, join.membership, target)


def _problem_of(server: Server, join: JoinMember, known: Peer | None, record: MemberRecord) -> str | None:
    if not server.cluster_change_permitted:
        return Rejection.CHANGE_NOT_PERMITTED
    if join.membership is Membership.PROMOTABLE and join.uid is None:
        return Rejection.MISSING_UID  # Ra crashes here (LIM-08)
    if known is None:
        return None
    if known.record(join.member) == record or _names_the_same(join, known):
        return Rejection.ALREADY_MEMBER
    replaces = known.uid is not None and known.uid != record.uid
    if replaces and known.voter and record.membership is Membership.VOTER:
        # Two changes in one, a voter out and another in: majorities of before and after need not meet.
        return Rejection.WRONG_UID
    return None


def _names_the_same(join: JoinMember, known: Peer) -> bool:
    """A promotable member that is asked for again keeps its first target."""
    return known.membership is join.membership and join.uid in (None, known.uid) and join.target is None


def on_leave(server: Server, leave: LeaveMember) -> Transition:
    """MEMB-12, MEMB-13: remove a member; the leader may remove itself."""
    if not server.cluster_change_permitted:
        return _refuse(server, _asker(leave), Rejection.CHANGE_NOT_PERMITTED)
    if leave.member not in server.cluster:
        return _refuse(server, _asker(leave), Rejection.UNKNOWN_MEMBER)
    rest = [record for record in records_of(server.cluster) if record.id != leave.member]
    return _change(server, _asker(leave), rest)


def on_delete_cluster(server: Server, delete: DeleteCluster) -> Transition:
    """CMD-20: an entry like any other; what it does happens when it is applied."""
    return _append(server, _asker(delete), EntryKind.CLUSTER_DELETE, b"")


def _change(server: Server, asker: _Asker, records: list[MemberRecord]) -> Transition:
    """MEMB-02: append the whole new configuration, and go by it at once; one in which somebody votes."""
    if not any(record.membership is Membership.VOTER for record in records):
        return _refuse(server, asker, Rejection.LAST_VOTER)  # that would be a deletion; say so
    records = sorted(records, key=lambda r: r.id)
    return _append(server, asker, EntryKind.CLUSTER_CHANGE, encode_cluster(records), records)


def _append(
    server: Server,
    asker: _Asker,
    kind: EntryKind,
    payload: bytes,
    records: list[MemberRecord] | None = None,
) -> Transition:
    body = encode_body([payload], kind, asker.reply_mode, asker.origin, asker.correlation)
    try:
        batch = append_entry(server, body)
    except WalDown:
        return take_wal_down(server, _refuse(server, asker, Rejection.WAL_DOWN).effects)
    if records is not None:
        take_up(server, IndexTerm(batch.first_index, batch.term), records)
        server.cluster_change_permitted = False
    rpcs, _ = pipelined_rpcs(server)
    return server.stay(*answer_append(batch), *rpcs)


def _refuse(server: Server, asker: _Asker, reason: str, leader: ServerId | None = None) -> Transition:
    if asker.reply_mode is ReplyMode.NOREPLY:
        return server.stay()
    return server.stay(Rejected(asker.origin, asker.correlation, 1, reason, leader))


def refuse_change(server: Server, change: Change) -> Transition:
    """Only a leader changes the cluster."""
    leader = server.leader_id if server.leader_id != server.id else None
    return _refuse(server, _asker(change), Rejection.NOT_LEADER, leader)


# --- promotion -----------------------------------------------------------------------------


def promotions_due(server: Server, only: ServerId | None = None) -> list[Effect]:
    """MEMB-07, MEMB-11: those that have caught up become voters, one change at a time.

    Looked at when a member tells how far it is, and on ticks: the change may not have been
    permitted when it was due.
    """
    if not server.cluster_change_permitted:
        return []
    members = server.peers() if only is None else [(only, server.cluster[only])]
    for member, peer in members:
        if _has_caught_up(peer):
            join = JoinMember(NOBODY, 0, ReplyMode.NOREPLY, member, peer.uid, Membership.VOTER)
            return [NextEvent(join)]
    return []


def promotables_wait(server: Server) -> bool:
    """Whether a tick has a promotion to look after."""
    return any(_has_caught_up(peer) for _, peer in server.peers())


def _has_caught_up(peer: Peer) -> bool:
    return peer.membership is Membership.PROMOTABLE and peer.match_index >= peer.target


# --- uids are learned ----------------------------------------------------------------------


def name_members(server: Server) -> list[Effect]:
    """Write down which uids the members have that were configured by address alone.

    From then on a server that lost its data and comes back under the same address is told apart.
    """
    if not (server.cluster_change_permitted and server.log.can_write()):
        return []
    records = []
    for member, peer in server.cluster.items():
        reported = server.cfg.uid if member == server.id else peer.reported_uid
        uid = peer.uid if peer.uid is not None else reported
        records.append(MemberRecord(member, uid, peer.membership, peer.target))
    if tuple(records) == records_of(server.cluster):
        return []
    return _change(server, _NOBODY_ASKED, records).effects


# --- the leader leaves ---------------------------------------------------------------------


def leave_if_removed(server: Server, effects: list[Effect]) -> Transition:
    """MEMB-13, L-2: a leader that removed itself stops once that is committed.

    One that only gave up its vote hands over to a voter, and follows.
    """
    voter = server.membership is Membership.VOTER
    if voter or server.commit_index < server.cluster_index_term.index:
        return server.stay(*effects)
    rpcs, _ = pipelined_rpcs(server)
    successor = best_successor(server)
    if successor is not None:
        rpcs.append(SendRpc(successor, TimeoutNow(server.id)))
    own = server.cluster.get(server.id)
    if own is not None and own.uid in (None, server.cfg.uid):
        # Until somebody is heard to lead it is asked again and again: the others take us for their leader.
        server.role = WaitingRole(TransferDone(), timeout_to=RaftState.LEADER, resume=server.leader_role())
        timeout = StartConditionTimeout(server.cfg.wal_down_timeout_ms)
        return Transition(RaftState.AWAIT_CONDITION, [*effects, *rpcs, timeout])
    refused = server.become_follower()
    return Transition(RaftState.STOP, [*effects, *rpcs, *refused, StopServer(StopReason.REMOVED)])


# --- the quorum is lost for good -----------------------------------------------------------


def on_force_member_change(server: Server, force: ForceMemberChange) -> Transition:
    """F-18, MEMB-15: this member alone is the cluster from here on; what only others had is lost.

    Unlike Ra we take a new term first: an entry of our own in the present term could meet
    another leader's at the same place, and both would look alike.
    """
    if not server.log.can_write():
        return server.stay(Rejected(force.origin, force.correlation, 1, Rejection.WAL_DOWN))
    effects = server.adopt_term_and_vote(Term(server.current_term + 1), server.id)
    alone = [MemberRecord(server.id, server.cfg.uid, Membership.VOTER)]
    body = encode_body([encode_cluster(alone)], EntryKind.CLUSTER_CHANGE)
    batch = append_entry(server, body)
    take_up(server, IndexTerm(batch.first_index, batch.term), alone)
    call = call_for_pre_vote(server)
    answer = Applied(force.origin, force.correlation, ["ok"])
    return Transition(call.state, [*effects, *call.effects, answer])


def yield_to_force(server: Server, force: ForceMemberChange) -> Transition:
    """L-36, C-16, P-11: first become a follower."""
    refused = server.become_follower()
    server.leader_id = None
    return Transition(RaftState.FOLLOWER, [*refused, NextEvent(force)])
