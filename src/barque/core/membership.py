"""Changing the members of the cluster (§4; MEMB-01 to MEMB-17).

One member at a time is added, removed or changed. A configuration counts from the moment it is in a log
(§4.1), so old and new majorities overlap. The next change waits until this one is applied, and the first
of a term until the term's noop is (the 2015 bug of single-server changes). An address and a uid together
name a member: a server that returns under an old address with other data is not that member.
"""

from typing import NamedTuple

from barque.core.commands import answer_append, append_entry, take_wal_down
from barque.core.configuration import may_change, take_up
from barque.core.effects import Applied, Effect, NextEvent, Rejected, Rejection, StopReason
from barque.core.entries import EntryKind, encode_body, encode_cluster
from barque.core.events import ForceMemberChange
from barque.core.log_contract import WalDown
from barque.core.messages import DeleteCluster, JoinMember, LeaveMember
from barque.core.quorum import majority
from barque.core.replication import pipelined_rpcs
from barque.core.roles import RaftState, TransferDone
from barque.core.state import Peer, Server, records_of
from barque.core.transfer import offer_leadership
from barque.core.transitions import (
    adopt_term_and_vote,
    become_follower,
    become_pre_candidate,
    become_stopped,
    become_waiting,
    forget_leader,
)
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

# --- requests to the leader -------------------------------------------------------------------

Change = JoinMember | LeaveMember | DeleteCluster


class _Asker(NamedTuple):
    """The caller of a change, and when it wants a reply."""

    origin: ClientRef
    correlation: int
    reply_mode: ReplyMode


_NOBODY_ASKED = _Asker(NOBODY, 0, ReplyMode.NOREPLY)


def _asker(change: Change) -> _Asker:
    return _Asker(change.origin, change.correlation, change.reply_mode)


def on_join(server: Server, join: JoinMember) -> list[Effect]:
    """MEMB-05: add a member, or change what one may do."""
    known = server.cluster.get(join.member)
    record = _record(server, join, known)
    problem = _problem_of(server, join, known, record)
    if problem is not None:
        return _refuse(server, _asker(join), problem)
    others = [r for r in records_of(server.cluster) if r.id != join.member]
    return _change(server, _asker(join), [*others, record], force=join.force)


def _record(server: Server, join: JoinMember, known: Peer | None) -> MemberRecord:
    """The member's new record. A uid that the request does not name stays as it was."""
    uid = join.uid if join.uid is not None or known is None else known.uid
    target = Index(0)
    if join.membership is Membership.PROMOTABLE:
        target = server.log.next_index() if join.target is None else join.target
    return MemberRecord(join.member, uid, join.membership, target)


def _problem_of(server: Server, join: JoinMember, known: Peer | None, record: MemberRecord) -> str | None:
    if not may_change(server):
        return Rejection.CHANGE_NOT_PERMITTED
    if join.membership is Membership.PROMOTABLE and join.uid is None:
        return Rejection.MISSING_UID  # Ra crashes here (LIM-08)
    if known is None:
        return None
    if known.record(join.member) == record or _names_the_same(join, known):
        return Rejection.ALREADY_MEMBER
    replaces = known.uid is not None and known.uid != record.uid
    if replaces and known.voter and record.membership is Membership.VOTER:
        # That would be two changes in one, a voter out and another in: old and new majorities need not meet.
        return Rejection.WRONG_UID
    return None


def _names_the_same(join: JoinMember, known: Peer) -> bool:
    """Whether the request repeats an earlier one: a promotable member keeps its first target then."""
    return known.membership is join.membership and join.uid in (None, known.uid) and join.target is None


def on_leave(server: Server, leave: LeaveMember) -> list[Effect]:
    """MEMB-12, MEMB-13: remove a member; the leader may remove itself."""
    if not may_change(server):
        return _refuse(server, _asker(leave), Rejection.CHANGE_NOT_PERMITTED)
    if leave.member not in server.cluster:
        return _refuse(server, _asker(leave), Rejection.UNKNOWN_MEMBER)
    rest = [record for record in records_of(server.cluster) if record.id != leave.member]
    return _change(server, _asker(leave), rest, force=leave.force)


def on_delete_cluster(server: Server, delete: DeleteCluster) -> list[Effect]:
    """CMD-20: append the deletion. It takes effect when it is applied."""
    return _append(server, _asker(delete), EntryKind.CLUSTER_DELETE, b"")


def _change(
    server: Server, asker: _Asker, records: list[MemberRecord], *, force: bool = False
) -> list[Effect]:
    """MEMB-02: append the whole new configuration and use it at once. It must have a voter.

    Unless forced, refuse a configuration whose majority is not up: it would count at once, never be
    committed, and nobody could lead or take it back until its members return.
    """
    voters = {record.id for record in records if record.membership is Membership.VOTER}
    if not voters:
        return _refuse(server, asker, Rejection.LAST_VOTER)  # that would be a deletion, by the back door
    if not force and len(voters - server.leader_role().silent) < majority(len(voters)):
        return _refuse(server, asker, Rejection.WOULD_LOSE_QUORUM)
    records = sorted(records, key=lambda r: r.id)
    return _append(server, asker, EntryKind.CLUSTER_CHANGE, encode_cluster(records), records)


def _append(
    server: Server,
    asker: _Asker,
    kind: EntryKind,
    payload: bytes,
    records: list[MemberRecord] | None = None,
) -> list[Effect]:
    body = encode_body([payload], kind, asker.reply_mode, asker.origin, asker.correlation)
    try:
        batch = append_entry(server, body)
    except WalDown:
        return take_wal_down(server, _refuse(server, asker, Rejection.WAL_DOWN))
    if records is not None:
        take_up(server, IndexTerm(batch.first_index, batch.term), records)
    rpcs, _ = pipelined_rpcs(server)
    return answer_append(batch) + rpcs


def _refuse(server: Server, asker: _Asker, reason: str, leader: ServerId | None = None) -> list[Effect]:
    if asker.reply_mode is ReplyMode.NOREPLY:
        return []
    return [Rejected(asker.origin, asker.correlation, 1, reason, leader)]


def refuse_change(server: Server, change: Change) -> list[Effect]:
    """Only a leader changes the cluster."""
    leader = server.leader_id if server.leader_id != server.id else None
    return _refuse(server, _asker(change), Rejection.NOT_LEADER, leader)


# --- promotion -----------------------------------------------------------------------------


def promotions_due(server: Server, only: ServerId | None = None) -> list[Effect]:
    """MEMB-07, MEMB-11: promote members that have caught up, one change at a time.

    Checked when a member says how far it is, and on ticks: another change may have been under way before.
    """
    if not may_change(server):
        return []
    members = server.peers if only is None else [(only, server.cluster[only])]
    for member, peer in members:
        if _has_caught_up(peer):
            join = JoinMember(NOBODY, 0, ReplyMode.NOREPLY, member, peer.uid, Membership.VOTER)
            return [NextEvent(join)]
    return []


def promotables_wait(server: Server) -> bool:
    """Whether a promotion is due, so that a tick has something to do."""
    return any(_has_caught_up(peer) for _, peer in server.peers)


def _has_caught_up(peer: Peer) -> bool:
    return peer.membership is Membership.PROMOTABLE and peer.match_index >= peer.target


# --- uids are learned ----------------------------------------------------------------------


def name_members(server: Server) -> list[Effect]:
    """Write the uids of members that were configured by address alone into the configuration.

    From then on the cluster tells a server that lost its data from the member at the same address.
    """
    if not (may_change(server) and server.log.can_write()):
        return []
    records = []
    for member, peer in server.cluster.items():
        reported = server.cfg.uid if member == server.id else peer.reported_uid
        uid = peer.uid if peer.uid is not None else reported
        records.append(MemberRecord(member, uid, peer.membership, peer.target))
    if tuple(records) == records_of(server.cluster):
        return []
    return _change(server, _NOBODY_ASKED, records)


# --- the leader leaves ---------------------------------------------------------------------


def leave_if_removed(server: Server, effects: list[Effect]) -> list[Effect]:
    """MEMB-13, L-2: end our leadership once a committed change has taken our vote, or us, away.

    Not before it is applied: its caller, and those of the entries before it, wait for our answers. A leader
    that was removed stops. A leader that only gave up its vote hands over and follows.
    """
    if server.membership is Membership.VOTER or server.last_applied < server.cluster_index_term.index:
        return effects
    rpcs, _ = pipelined_rpcs(server)
    effects = [*effects, *rpcs, *offer_leadership(server)]
    if not _is_still_member(server):
        return effects + become_stopped(server, StopReason.REMOVED)
    # The other members take us for their leader until another one is heard: ask a successor again and again.
    waiting = become_waiting(
        server, TransferDone(), server.cfg.wal_down_timeout_ms, timeout_to=RaftState.LEADER
    )
    return effects + waiting


def _is_still_member(server: Server) -> bool:
    own = server.cluster.get(server.id)
    return own is not None and own.uid in (None, server.cfg.uid)


# --- the quorum is lost for good -----------------------------------------------------------

_FORCED_TERM_STEP = 1 << 20
"""More elections than the lost members can have held without the survivor: one each 100 ms for a day."""


def on_force_member_change(server: Server, force: ForceMemberChange) -> list[Effect]:
    """F-18, MEMB-15: this member alone is the cluster from here on. Entries that only others had are lost.

    Unlike Ra we take a new term first, far above ours: the lost members may have led terms that we never
    heard of, and an entry or a message of theirs must not look like ours. Nodes that know those terms take
    the survivor for the newer leader.
    """
    if not server.log.can_write():
        return [Rejected(force.origin, force.correlation, 1, Rejection.WAL_DOWN)]
    step = _FORCED_TERM_STEP + server.environment.token() % _FORCED_TERM_STEP
    effects = adopt_term_and_vote(server, Term(server.current_term + step), server.id)
    alone = [MemberRecord(server.id, server.cfg.uid, Membership.VOTER)]
    body = encode_body([encode_cluster(alone)], EntryKind.CLUSTER_CHANGE)
    batch = append_entry(server, body)
    take_up(server, IndexTerm(batch.first_index, batch.term), alone)
    answer = Applied(force.origin, force.correlation, ["ok"])
    return [*effects, *become_pre_candidate(server), answer]


def give_way_to_force(server: Server, force: ForceMemberChange) -> list[Effect]:
    """L-36, C-16, P-11: become a follower first, then force the change."""
    effects = become_follower(server)
    forget_leader(server)
    return effects + on_force_member_change(server, force)
