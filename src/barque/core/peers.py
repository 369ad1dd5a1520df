"""What a server believes of each member of its cluster (CORE-15, CORE-16)."""

import enum
from collections.abc import Iterable

from barque.types import Index, MemberRecord, Membership, ServerId, Uid


class PeerStatus(enum.Enum):
    """What a leader can do for a peer. Only a `NORMAL` one is sent entries and heartbeats.

    Ra's `suspended` is missing: our sends never block, a full channel drops and counts.
    """

    NORMAL = "normal"
    SENDING_SNAPSHOT = "sending_snapshot"
    SNAPSHOT_BACKOFF = "snapshot_backoff"
    DISCONNECTED = "disconnected"


class Peer:
    """One member, as its leader sees it. A server's own entry only says what it may do.

    Invariant: match_index < next_index.
    """

    __slots__ = (
        "attempts",
        "commit_index",
        "commit_index_sent",
        "machine_version",
        "match_index",
        "membership",
        "next_index",
        "query_index",
        "reported_uid",
        "status",
        "target",
        "uid",
        "voter",
    )

    def __init__(self, record: MemberRecord) -> None:
        self.next_index = Index(1)  # the next entry to send; moved on optimistically (REPL-03)
        self.match_index = Index(0)  # durable there, in this leader's term
        self.commit_index = Index(0)  # as it has told last
        self.commit_index_sent = Index(0)  # by pipelined RPCs only
        self.query_index = 0  # the newest heartbeat it has answered in this term
        self.status = PeerStatus.NORMAL
        self.attempts = 0  # to send it a snapshot, in vain
        self.machine_version: int | None = None  # that it supports, as it has told
        self.reported_uid: Uid | None = None  # as it has told; `uid` is what the cluster agreed on
        self.assign(record)

    def assign(self, record: MemberRecord) -> None:
        """Take over what a configuration says; what is known of its progress stays."""
        self.uid: Uid | None = record.uid
        self.membership = record.membership
        self.target = record.target
        self.voter = record.membership is Membership.VOTER

    def record(self, member: ServerId) -> MemberRecord:
        """What the configuration says of it."""
        return MemberRecord(member, self.uid, self.membership, self.target)

    def begin_term(self, next_index: Index) -> None:
        """A new leader knows nothing of anybody's log (§3.5)."""
        self.next_index = next_index
        self.match_index = self.commit_index = self.commit_index_sent = Index(0)
        self.query_index = self.attempts = 0
        self.status = PeerStatus.NORMAL


Cluster = dict[ServerId, Peer]


def records_of(cluster: Cluster) -> tuple[MemberRecord, ...]:
    """The configuration as logs and snapshots keep it."""
    return tuple(peer.record(member) for member, peer in cluster.items())


def make_cluster(records: Iterable[MemberRecord], old: Cluster | None = None) -> Cluster:
    """The members of a configuration, with what is known of those that were there before.

    Another uid is another server, of which nothing is known.
    """
    cluster: Cluster = {}
    for record in sorted(records, key=lambda r: r.id):
        peer = old.get(record.id) if old else None
        if peer is None or (peer.uid is not None and peer.uid != record.uid):
            peer = Peer(record)
        else:
            peer.assign(record)
        cluster[record.id] = peer
    return cluster
