"""The observer of a core cluster: it sees every step and every message, and checks the invariants.

A server can check itself (`core.invariants`). The invariants of Figure 3.2 concern several servers, so
somebody must see all of them, and must remember what servers forget when they restart.

- After each step of a server, `look` compares the server with what the observer has seen. A new leader must
  be the only one of its term and hold all committed entries (Election Safety, Leader Completeness). An entry
  that a leader commits must be on the disks of a quorum of voters. A follower may only commit what a leader
  has committed, and the same entry at the same index (State Machine Safety). A leader changes its cluster one
  step at a time (I22).
- Before each message leaves, `hear` compares it with the sender's disk: a server never mentions a term that
  it has not stored, and never votes twice in a term, not even across restarts.
- When a server has decided on its effects, `overhear` checks their order: a server stores its term and vote
  before it sends anything, and acknowledges only entries that are on its disk.
- `check_logs` compares whole logs (Log Matching). It is slow, so simulations call it at the end.

Disks that members have lost (`Member.wipe`) still count for quorums: the entry was there when the leader
committed it. A violation raises `InvariantViolation` at once, in the step that causes it.
"""

from typing import TYPE_CHECKING

from barque.core import invariants
from barque.core.effects import (
    Effect,
    PersistTermAndVote,
    SendRpc,
    SendVoteRequests,
)
from barque.core.entries import EntryBatch, EntryKind, decode_cluster, kind_of
from barque.core.messages import (
    AppendEntriesReply,
    RemoteMessage,
    RequestVoteResult,
    RequestVoteRpc,
)
from barque.core.state import RaftState, Server
from barque.errors import InvariantViolation
from barque.types import Index, IndexTerm, Membership, ServerId, Term, Uid

if TYPE_CHECKING:
    from barque.testing.core.cluster import CoreCluster
    from barque.testing.core.member import Member

_LEADER = RaftState.LEADER
_TOLD = frozenset({SendRpc, SendVoteRequests, PersistTermAndVote})
"""Messages that leave a server, and the write that must come first."""


class InvariantObserver:
    """Sees every step and every message of a cluster, and checks the invariants of the whole cluster.

    Figure 3.2 of the thesis; docs/explanation/simulation.md lists I1 to I13 and I22.
    """

    def __init__(self, cluster: "CoreCluster") -> None:
        self._cluster = cluster
        self.leaders: dict[Term, ServerId] = {}
        self.votes: dict[tuple[ServerId, Uid, Term], ServerId] = {}
        self.lost: list[tuple[ServerId, Uid, list[EntryBatch]]] = []  # the disks that members have lost
        self._checked: dict[tuple[ServerId, Uid], IndexTerm] = {}  # the snapshots that were looked at
        self.committed: list[tuple[EntryBatch, Term]] = []  # each with the term in which it was committed

    def look(self, member: "Member", before: invariants.Facts, now: invariants.Facts) -> None:
        """Check a member after one of its steps."""
        server = member.server
        leads = now.state is _LEADER
        if leads and before.state is not _LEADER:
            self._check_new_leader(server)
        if now.commit_index > before.commit_index:
            # A leader that commits its own end (removed, deleted) is no longer leader after the step.
            led = leads or before.state in (RaftState.LEADER, RaftState.TERMINATING_LEADER)
            self._check_commit(member, before.commit_index, led=led)
            if led:
                self._check_quorum(server)
        if leads and server.cluster_index_term.index > before.last.index:
            _check_change(server)
        if now.last.index < before.commit_index:
            _violated(f"{server.id} has dropped committed entries")

    def _check_new_leader(self, server: Server) -> None:
        first = self.leaders.setdefault(server.current_term, server.id)
        if first != server.id:
            _violated(f"{first} and {server.id} both led term {server.current_term}")
        start = server.log.snapshot_index_term().index
        for index, (entry, term) in enumerate(self.committed, start=1):
            if (
                index > start
                and term < server.current_term
                and server.log.fetch_term(Index(index)) != entry.term
            ):
                _violated(f"{server.id} leads term {server.current_term} without committed entry {index}")

    def _check_commit(self, member: "Member", before: int, *, led: bool) -> None:
        server = member.server
        before = max(before, server.log.snapshot_index_term().index)
        for entry in member.log.entries[before : server.commit_index]:
            index = entry.first_index
            if index <= len(self.committed):
                if self.committed[index - 1][0] != entry:
                    _violated(f"{server.id} commits another entry {index} than was committed")
            elif not led:
                _violated(f"{server.id} commits {index}, which no leader has committed")
            else:
                self.committed.append((entry, server.current_term))

    def _check_quorum(self, server: Server) -> None:
        """A quorum of the newest configuration must hold the entry; a leaving leader is no voter (§4.2.2)."""
        index = server.commit_index
        term = server.log.fetch_term(index)
        holders = 0
        for member in self._cluster.members.values():
            disk = member.log.disk
            behind = index <= member.log.snapshot_index_term().index
            there = behind or (index <= len(disk) and disk[index - 1].term == term)
            holders += there and _votes(server, member.id, member.log.uid)
        for lost, uid, disk in self.lost:
            there = index <= len(disk) and disk[index - 1].term == term
            holders += there and _votes(server, lost, uid)
        if holders < server.quorum():
            _violated(f"{server.id} commits {index}, which is on {holders} disks")

    def check_snapshot(self, member: "Member") -> None:
        """A snapshot says what was so at its entry: the members, and the machine's time (I19)."""
        meta = member.log.snapshots.current()
        if meta is None or self._checked.get((member.id, member.log.uid)) == meta.position:
            return
        self._checked[member.id, member.log.uid] = meta.position
        entries = [entry for entry, _ in self.committed[: meta.position.index]]
        if len(entries) < meta.position.index:
            _violated(f"{member.id} has a snapshot at {meta.position}, which is not committed")
        time_ms = max(entry.timestamp_ms for entry in entries)
        if meta.machine_time_ms != time_ms:
            _violated(
                f"{member.id}'s snapshot at {meta.position} has time {meta.machine_time_ms}, not {time_ms}"
            )
        changes = [entry for entry in entries if kind_of(entry.body) is EntryKind.CLUSTER_CHANGE]
        if changes and set(decode_cluster(changes[-1].body)) != set(meta.cluster):
            _violated(f"{member.id}'s snapshot at {meta.position} has members {meta.cluster}")

    def hear(self, sender: "Member", to: ServerId, message: RemoteMessage) -> None:
        """Check a message before it leaves."""
        disk = sender.log.disk
        snapshot = sender.log.snapshots.current()
        covered = snapshot.position.term if snapshot is not None else 0
        known = max(sender.term, disk[-1].term if disk else 0, covered)
        term = getattr(message, "term", 0)
        if term > known:
            _violated(f"{sender.id} speaks of term {term} and has stored {known}: {message}")
        if isinstance(message, RequestVoteRpc):
            self._vote(sender, message.term, sender.id)
        elif isinstance(message, RequestVoteResult) and message.vote_granted:
            self._vote(sender, message.term, to)

    def overhear(self, member: "Member", effects: list[Effect]) -> None:
        """Check the effects of a step before anything performs them: later, the disk may be ahead."""
        disk = member.log.disk
        sending = False
        for effect in effects:
            kind = type(effect)
            if kind not in _TOLD:
                continue
            if sending and kind is PersistTermAndVote:
                _violated(f"{member.id} sends before it stores: {effects}")
            sending = sending or kind is not PersistTermAndVote
            if isinstance(effect, SendRpc) and isinstance(effect.message, AppendEntriesReply):
                index, term = effect.message.last_index, effect.message.last_term
                if index > member.log.snapshot_index_term().index and (
                    index > len(disk) or disk[index - 1].term != term
                ):
                    _violated(f"{member.id} claims what is not on its disk: {effect.message}")

    def _vote(self, voter: "Member", term: Term, candidate: ServerId) -> None:
        first = self.votes.setdefault((voter.id, voter.log.uid, term), candidate)
        if first != candidate:
            _violated(f"{voter.id} voted for {first} and for {candidate} in term {term}")

    def check_logs(self) -> None:
        """Log Matching (§3.5): the same index and term mean the same entries up to there."""
        members = list(self._cluster.members.values())
        for number, one in enumerate(members):
            for other in members[number + 1 :]:
                for logs in ((one.log.entries, other.log.entries), (one.log.disk, other.log.disk)):
                    start = max(one.log.snapshot_index_term().index, other.log.snapshot_index_term().index)
                    _check_matching(one.id, other.id, *logs, start)


def _check_change(server: Server) -> None:
    """I22: a leader makes one change at a time, and none before it has committed an entry of its term."""
    assert server.previous_cluster is not None
    position, records = server.previous_cluster
    if position.index > server.commit_index:
        _violated(f"{server.id} changes its cluster while another change is under way")
    if server.log.fetch_term(server.commit_index) != server.current_term:
        _violated(f"{server.id} changes its cluster before it has committed an entry of its term")
    before = {r.id: r.uid for r in records if r.membership is Membership.VOTER}
    after = {member: peer.uid for member, peer in server.cluster.items() if peer.voter}
    moved = sum((member in before) != (member in after) for member in before | after)
    moved += sum(None not in (before[m], after[m]) and before[m] != after[m] for m in before if m in after)
    if moved > 1:
        _violated(f"majorities of {before} and of {after} need not overlap")


def _votes(server: Server, member: ServerId, uid: Uid) -> bool:
    peer = server.cluster.get(member)
    return peer is not None and peer.voter and peer.uid in (None, uid)


def _check_matching(
    one: ServerId, other: ServerId, ours: list[EntryBatch], theirs: list[EntryBatch], start: int
) -> None:
    meeting = start
    for index in range(min(len(ours), len(theirs)), start, -1):
        if ours[index - 1].term == theirs[index - 1].term:
            meeting = index
            break
    if ours[start:meeting] != theirs[start:meeting]:
        _violated(f"the logs of {one} and {other} meet at {meeting} and differ before")


def _violated(what: str) -> None:
    raise InvariantViolation(what)
