"""The configuration in force (§4.1; MEMB-02 to MEMB-04), and the members that it names (MEMB-10).

A configuration counts from the moment it is in the log, committed or not. If a leader overwrites it before it
is committed, it is void, and the configuration before it is in force again. At most one configuration of a
cluster is uncommitted. A follower may not know yet that an earlier one is committed, and a snapshot at an
older entry needs the configuration of that entry. So a server remembers those since its last snapshot.
"""

from collections.abc import Iterable, Sequence

from barque.core.effects import Effect, MembersGone
from barque.core.entries import EntryBatch, EntryKind, decode_cluster, kind_of
from barque.core.log_contract import read_batches
from barque.core.state import RaftState, Server, records_of
from barque.types import Index, IndexTerm, MemberRecord, Membership, ServerId, Uid


def take_up(server: Server, position: IndexTerm, records: Sequence[MemberRecord]) -> None:
    """Put the configuration at `position` in force; remember the one before (MEMB-03)."""
    history = server.config_history
    history.append((server.cluster_index_term, records_of(server.cluster)))
    needed = min(server.commit_index, server.log.snapshot_index_term().index)
    while len(history) > 1 and history[1][0].index <= needed:
        del history[0]
    server.adopt_cluster(position, list(records))


def revert_overwritten(server: Server, first: Index) -> None:
    """Entries from `first` on are about to be replaced: a configuration among them is void (MEMB-04)."""
    while first <= server.cluster_index_term.index:
        assert server.config_history, "an uncommitted configuration remembers the one before"
        position, records = server.config_history.pop()
        server.adopt_cluster(position, list(records))


def take_up_written(server: Server, batches: Iterable[EntryBatch]) -> None:
    """Put configurations among just written entries in force (F-1, §4.1)."""
    for batch in batches:
        if kind_of(batch.body) is EntryKind.CLUSTER_CHANGE:
            take_up(server, IndexTerm(batch.first_index, batch.term), decode_cluster(batch.body))


def scan_uncommitted(server: Server) -> None:
    """Ra's `recover` 3: put configurations beyond the commit index in force as well."""
    last = server.log.last_index_term().index
    take_up_written(server, read_batches(server.log, Index(server.commit_index + 1), last))


def apply_cluster_change(server: Server, batch: EntryBatch) -> list[Effect]:
    """Apply a committed change: the next one may come, and the leader's node tells removed members."""
    position = IndexTerm(batch.first_index, batch.term)
    if position.index > server.cluster_index_term.index:
        take_up(server, position, decode_cluster(batch.body))  # recovery, or a new log
    before = server.previous_cluster
    if position != server.cluster_index_term:
        return []  # a newer one is in force already
    if server.raft_state is not RaftState.LEADER or before is None:
        return []
    now = {(record.id, record.uid) for record in records_of(server.cluster)}
    gone = tuple(
        (r.id, r.uid)
        for r in before[1]
        if (r.id, r.uid) not in now and r.id != server.id and not _was_named(server, r)
    )
    return [MembersGone(gone)] if gone else []


def configuration_at(server: Server, index: Index) -> tuple[MemberRecord, ...] | None:
    """The members as of a committed entry (SNAP-03); None if they are no longer known."""
    known = [*server.config_history, (server.cluster_index_term, records_of(server.cluster))]
    for position, records in reversed(known):
        if position.index <= index:
            return records
    return None


def committed_configuration(server: Server) -> tuple[IndexTerm, tuple[MemberRecord, ...]]:
    """The newest configuration that this server knows to be committed."""
    known = [*server.config_history, (server.cluster_index_term, records_of(server.cluster))]
    committed = [entry for entry in known if entry[0].index <= server.commit_index]
    return committed[-1] if committed else known[0]


def _was_named(server: Server, record: MemberRecord) -> bool:
    """Whether this change only wrote down a uid that was not known before: the member is the same."""
    return record.uid is None and record.id in server.cluster


# --- may it change now? ----------------------------------------------------------------------


def is_established(server: Server) -> bool:
    """Whether we lead and have applied this term's noop, and with it all that earlier leaders committed.

    From then on our commit index is not behind any earlier leader's (§6.4), so reads may be answered.
    """
    leadership = server.leadership()
    return leadership is not None and leadership.established


def is_change_under_way(server: Server) -> bool:
    """Whether the newest configuration in our log is not applied yet (§4.1: one change at a time)."""
    return server.cluster_index_term.index > server.last_applied


def may_change(server: Server) -> bool:
    """Ra's `cluster_change_permitted`: both facts together.

    The first change of a term waits for the term's noop, or two changes of two leaders could be pending
    at once (the 2015 bug of single-server changes).
    """
    return is_established(server) and not is_change_under_way(server)


# --- identity ------------------------------------------------------------------------------


def recognises(server: Server, sender: ServerId, uid: Uid) -> bool:
    """Whether this uid may speak for this address: false only if the cluster knows another one (MEMB-10).

    Votes and acknowledgements, which make majorities, must pass this test; for candidates see
    `hears_candidate`. A leader's messages need not: it was elected, and our configuration may be older
    than the one that made it a member.
    """
    peer = server.cluster.get(sender)
    return peer is None or peer.uid is None or peer.uid == uid


def hears_candidate(server: Server, sender: ServerId, uid: Uid, *, in_own_config: bool) -> bool:
    """Whether this uid may ask for our vote under this address; `in_own_config` is the candidate's claim.

    Our configuration may be older than the candidate's, and without our vote perhaps nobody can lead and
    bring us the newer one. But a member that lost its data believes that it votes, because its settings
    say so, and it could find other members with as little data as it has. So an unknown uid must be a
    member by its own log (§4.1). A leader does not need to hear it.
    """
    if recognises(server, sender, uid):
        return True
    return in_own_config and server.raft_state is not RaftState.LEADER


def is_in_own_config(server: Server) -> bool:
    """Whether a configuration in our log, or in our snapshot, lists this very uid as a member."""
    in_force = (server.cluster_index_term, records_of(server.cluster))
    return any(
        position.index > 0 and any((r.id, r.uid) == (server.id, server.cfg.uid) for r in records)
        for position, records in (in_force, *server.config_history)
    )


def may_campaign(server: Server) -> bool:
    """Whether we vote, or did until a change that is not known to be committed (§4.2.2).

    Perhaps no other server has that change, and a server whose log is behind ours cannot win. Our own
    vote counts only if the newest configuration says so.
    """
    if server.is_voter(server.id) or server.cluster_index_term.index <= server.commit_index:
        return server.is_voter(server.id)
    before = server.previous_cluster[1] if server.previous_cluster is not None else ()
    return any(
        r.id == server.id and r.uid in (None, server.cfg.uid) and r.membership is Membership.VOTER
        for r in before
    )


def is_removed(server: Server, sender: ServerId, uid: Uid) -> bool:
    """Whether we can prove that this server is no member: we lead, and a committed configuration says so."""
    if not is_settled(server):
        return False
    peer = server.cluster.get(sender)
    return peer is None or (peer.uid is not None and peer.uid != uid)


def uids_on(server: Server, node: str) -> tuple[Uid, ...] | None:
    """The uids of all members on a node, for a settled leader; None for others, or if a uid is unknown."""
    uids = [peer.uid for member, peer in server.cluster.items() if member.node == node]
    known = tuple(uid for uid in uids if uid is not None)
    return known if is_settled(server) and len(known) == len(uids) else None


def is_settled(server: Server) -> bool:
    """Whether this server leads, and its configuration is committed."""
    return server.raft_state is RaftState.LEADER and may_change(server)
