"""Which configuration is in force (§4.1; MEMB-02 to MEMB-04), and who is a member by it (MEMB-10).

A configuration counts from the moment it is in the log, committed or not; one that is
overwritten before it was committed is void, and the one before is in force again. At most one
is uncommitted at a time; but a follower may not know yet that an earlier one is committed, so it
remembers all of them that lie beyond its own commit index, and one more.
"""

from collections.abc import Iterable, Sequence

from barque.core.effects import Effect, MembersGone
from barque.core.entries import EntryBatch, EntryKind, decode_cluster, kind_of
from barque.core.log_contract import read_batches
from barque.core.peers import records_of
from barque.core.server import RaftState, Server
from barque.types import Index, IndexTerm, MemberRecord, ServerId, Term, Uid


def take_up(server: Server, position: IndexTerm, records: Sequence[MemberRecord]) -> None:
    """Go by the configuration at `position`; remember the one before (MEMB-03)."""
    earlier = server.earlier_clusters
    earlier.append((server.cluster_index_term, records_of(server.cluster)))
    while len(earlier) > 1 and earlier[1][0].index <= server.commit_index:
        del earlier[0]
    server.adopt_cluster(position, list(records))


def revert_overwritten(server: Server, first: Index) -> None:
    """Entries from `first` on are about to be replaced: a configuration among them is void (MEMB-04)."""
    while first <= server.cluster_index_term.index:
        assert server.earlier_clusters, "an uncommitted configuration remembers the one before"
        position, records = server.earlier_clusters.pop()
        server.adopt_cluster(position, list(records))


def take_up_written(server: Server, batches: Iterable[EntryBatch]) -> None:
    """Configurations among entries that were just written are in force now (F-1, §4.1)."""
    for batch in batches:
        if kind_of(batch.body) is EntryKind.CLUSTER_CHANGE:
            take_up(server, IndexTerm(batch.first_index, batch.term), decode_cluster(batch.body))


def scan_uncommitted(server: Server) -> None:
    """Ra's `recover` 3: configurations beyond the commit index are in force as well."""
    last = server.log.last_index_term().index
    take_up_written(server, read_batches(server.log, Index(server.commit_index + 1), last))


def apply_cluster_change(server: Server, batch: EntryBatch) -> list[Effect]:
    """The change is committed: the next may come, and whoever was removed may go."""
    position = IndexTerm(batch.first_index, batch.term)
    if position.index > server.cluster_index_term.index:
        server.adopt_cluster(position, list(decode_cluster(batch.body)))  # recovery, or a new log
    before = server.previous_cluster
    if position != server.cluster_index_term:
        return []  # a newer one is in force already
    if position.term == server.current_term:
        server.cluster_change_permitted = True
    if server.raft_state is not RaftState.LEADER or before is None:
        return []
    now = {(record.id, record.uid) for record in records_of(server.cluster)}
    gone = tuple((r.id, r.uid) for r in before[1] if (r.id, r.uid) not in now and not _was_named(server, r))
    return [MembersGone(gone)] if gone else []


def _was_named(server: Server, record: MemberRecord) -> bool:
    """A member without a known uid that got one now is still the same."""
    return record.uid is None and record.id in server.cluster


# --- identity ------------------------------------------------------------------------------


def recognises(server: Server, sender: ServerId, uid: Uid) -> bool:
    """Whether this uid may speak for this address: false only if the cluster knows another (MEMB-10).

    Asked of whatever makes majorities: votes and acknowledgements; of candidates see `hears_candidate`.
    Not of a leader's messages: it is elected, and our configuration may be older than the one that made
    it a member.
    """
    peer = server.cluster.get(sender)
    return peer is None or peer.uid is None or peer.uid == uid


def hears_candidate(server: Server, sender: ServerId, uid: Uid, *, named: bool) -> bool:
    """Whether this uid may ask for our vote under this address; `named` is what it says of itself.

    Our configuration may be older than its own, and without our vote nobody may ever lead and tell us. But
    a member that lost its data takes itself for a voter by what it was configured with, and would find
    others with as little as it has: so an unknown uid must be a member by its log (§4.1). A leader needs
    not be told.
    """
    return recognises(server, sender, uid) or (named and server.raft_state is not RaftState.LEADER)


def is_named(server: Server) -> bool:
    """Whether a configuration in our log, or in our snapshot, says that this very uid is a member."""
    in_force = (server.cluster_index_term, records_of(server.cluster))
    return any(
        position.index > 0 and any((r.id, r.uid) == (server.id, server.cfg.uid) for r in records)
        for position, records in (in_force, *server.earlier_clusters)
    )


def is_removed(server: Server, sender: ServerId, uid: Uid) -> bool:
    """Whether we can prove that this server is no member: we lead, and a committed configuration says so.

    A leader that permits a change has committed the one before (`invariants`).
    """
    if not is_settled(server):
        return False
    peer = server.cluster.get(sender)
    return peer is None or (peer.uid is not None and peer.uid != uid)


def uids_on(server: Server, node: str) -> tuple[Uid, ...] | None:
    """The members on a node, if we can prove that it has no others; None if not, or if a uid is unknown."""
    uids = [peer.uid for member, peer in server.cluster.items() if member.node == node]
    known = tuple(uid for uid in uids if uid is not None)
    return known if is_settled(server) and len(known) == len(uids) else None


def is_settled(server: Server) -> bool:
    """Whether this server leads, and no change of its members is under way."""
    return server.raft_state is RaftState.LEADER and server.cluster_change_permitted


def was_removed(server: Server, term: Term, uids: tuple[Uid, ...]) -> bool:
    """Whether this server is none of the members that an established leader of `term` knows on its node.

    A leader of the term in which it was made to join may have said so before; an earlier one than the newest
    that it has met may not know that it has joined.
    """
    cfg = server.cfg
    return cfg.uid not in uids and term > cfg.joined_at.term and term >= server.current_term
