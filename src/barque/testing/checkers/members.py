"""Checkers of membership: which servers belong to a cluster, which have left, and what the directory says."""

from collections.abc import Iterable

import msgspec

from barque.core.entries import EntryBatch, decode_cluster
from barque.core.state import RaftState, Server, records_of
from barque.runtime.node import Node
from barque.runtime.tombstones import TOMBSTONES
from barque.testing.checkers.safety import Report, Violation
from barque.types import Index, IndexTerm, MemberRecord, Membership, ServerId, Uid

Records = tuple[MemberRecord, ...]


class Configurations:
    """I22: one change at a time, after an entry of the leader's term; majorities overlap; none is forgotten.

    It reads the entries that leaders send: a configuration counts as soon as it is in a log.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._known: dict[IndexTerm, Records] = {}

    def sent(self, leader: Server, batch: EntryBatch) -> None:
        """A leader sends a configuration for the first time."""
        position = IndexTerm(batch.first_index, batch.term)
        records = decode_cluster(batch.body)
        known = self._known.get(position)
        self._known[position] = records
        if known is None and batch.term == leader.current_term and leader.raft_state is RaftState.LEADER:
            self._judge(leader, position, records)

    def _judge(self, leader: Server, position: IndexTerm, records: Records) -> None:
        if leader.log.fetch_term(position.index) != position.term:
            return
        before = self._last_before(leader, position)
        if before is not None and before.index > leader.commit_index:
            self._violated("two changes are under way", f"{leader.id} has {before}, and {position}", leader)
        first = position.index
        while leader.log.fetch_term(Index(first - 1)) == position.term:
            first = Index(first - 1)
        if first == position.index or first > leader.commit_index:
            text = "a change before an entry of the leader's own term was committed"
            self._violated(text, f"{position}; the first entry of its term is {first}", leader)
        old = self._known[before] if before is not None else _records_at_first(leader)
        one, other = voters(old, records), voters(records, old)
        if len(one) // 2 + 1 + len(other) // 2 + 1 <= len({*one, *other}):
            states = (f"before, at {before}: {old}", f"at {position}: {records}")
            self._report(
                Violation("membership (I22)", "majorities before and after need not overlap", states)
            )

    def _violated(self, text: str, state: str, leader: Server) -> None:
        states = (state, f"{leader.id} has committed up to {leader.commit_index}")
        self._report(Violation("membership (I22)", text, states))

    def _last_before(self, server: Server, limit: IndexTerm | None) -> IndexTerm | None:
        """The last configuration in this log (before `limit`), of those that were ever sent."""
        held = [
            position
            for position in self._known
            if (limit is None or position.index < limit.index)
            and server.log.fetch_term(position.index) == position.term
        ]
        return max(held, key=lambda position: position.index, default=None)

    def restarted(self, server: Server) -> None:
        """A server has restarted: it must use the last configuration in its log, committed or not."""
        last = self._last_before(server, None)
        found = server.cluster_index_term
        if last is None or found.index > last.index:
            return  # its configuration was never sent
        if found != last or not same(self._known[last], records_of(server.cluster)):
            states = (
                f"its log holds, at {last}: {self._known[last]}",
                f"{server.id} goes by {found}: {records_of(server.cluster)}",
            )
            text = "a restart did not find the last configuration of its log"
            self._report(Violation("membership (I22)", text, states))

    def named(self, leader: Server) -> set[Uid]:
        """The uids of all present and former members, by what this leader has committed."""
        found = {record.uid for record in initial_records(leader) if record.uid is not None}
        for position, records in self._known.items():
            committed = position.index <= leader.commit_index
            covered = position.index < leader.log.first_index()
            if committed and (covered or leader.log.fetch_term(position.index) == position.term):
                found.update(record.uid for record in records if record.uid is not None)
        return found


def _records_at_first(server: Server) -> Records:
    """The configuration with which a server's log begins: its snapshot's, or the cluster's first one."""
    snapshot = server.log.snapshots.current()
    return initial_records(server) if snapshot is None else snapshot.cluster


def initial_records(server: Server) -> Records:
    """The configuration that a cluster begins with."""
    return tuple(server.cfg.initial_cluster())


def same(one: Records, other: Records) -> bool:
    """Whether two configurations are equal, in any order."""
    return sorted(one, key=_by_id) == sorted(other, key=_by_id)


def _by_id(record: MemberRecord) -> ServerId:
    return record.id


def voters(records: Records, others: Records) -> list[tuple[ServerId, Uid | None]]:
    """The voters. A voter without a known uid takes the uid of the same address in `others`, if any."""
    uids = {record.id: record.uid for record in others}
    return [
        (record.id, uids.get(record.id) if record.uid is None else record.uid)
        for record in records
        if record.membership is Membership.VOTER
    ]


class Departed(msgspec.Struct, frozen=True):
    """A server that is gone for good: its tombstone is on the disk."""

    node: str
    uid: Uid
    cluster_id: str
    whole_cluster: bool


class Departures:
    """I23: a removed or deleted server does not run, send or start again."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._gone: dict[Uid, Departed] = {}
        self._deleted: dict[tuple[str, str], Departed] = {}  # by node and cluster id

    def left(self, departed: Departed) -> None:
        """A server is gone, durably."""
        self._gone[departed.uid] = departed
        if departed.whole_cluster:
            self._deleted[departed.node, departed.cluster_id] = departed

    def lives(self, server: Server, doing: str) -> None:
        """A server starts, sends, or takes up a role."""
        if not self._gone:
            return
        known = self._gone.get(server.cfg.uid) or self._deleted.get((server.id.node, server.cfg.cluster_id))
        if known is not None:
            states = (str(known), f"{server.id} ({server.cfg.uid}) of {server.cfg.cluster_id} {doing}")
            self._report(Violation("the removed stay away (I23)", "a server is back", states))

    def deleted_on(self, cluster_id: str) -> set[str]:
        """The nodes that have a tombstone of the whole cluster. One is enough: its end is committed."""
        return {node for node, deleted in self._deleted if deleted == cluster_id}


def check_registry(node: Node, folders: Iterable[str], *, finished: bool) -> Violation | None:
    """I24: each name has one uid and one directory, and every directory belongs to a server.

    `folders` are the directories in `servers/` that hold a config. `finished`: no deletion is under way.
    """
    system = node.system
    if not finished and system.failure is not None:
        return None  # a deletion may still wait for the disk
    records = {name: record.uid for name, record in system.directory.records.items()}
    running = {name: process.server.cfg.uid for name, process in system.processes.items()}
    dying = set() if finished else system.directory.unfinished
    there = {Uid(folder) for folder in folders if folder != TOMBSTONES} - dying
    logged = system.storage.recovered_uids() - dying
    states = (
        f"recorded: {records}",
        f"running: {running}",
        f"folders: {sorted(there)}",
        f"with entries or votes: {sorted(logged)}",
    )
    uids = set(records.values())
    if records != running or len(uids) != len(records):
        text = "the running servers are not the recorded servers"
    elif there != uids:
        text = "folders and records differ"
    elif not logged <= uids:
        text = "some data belong to no server"
    else:
        return None
    return Violation("directory and registry agree (I24)", f"{node.name}: {text}", states)
