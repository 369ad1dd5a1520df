"""The checkers of Raft's safety: elections, logs, commits, and what the disks hold.

A checker sees messages, applied commands and disks, and shares no code with Raft. Each property has a number
(I1 to I32, docs/explanation/simulation.md). A checker remembers what it has seen for the whole run, so it
still knows what a server forgets in a restart.
"""

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from barque.core.entries import EntryBatch, decode_head, payloads_of
from barque.core.messages import (
    AppendEntriesRpc,
)
from barque.core.state import Server
from barque.log.disk import join
from barque.log.memtable import Memtable
from barque.log.meta import MetaStore
from barque.log.meta_format import MetaRecord
from barque.log.snapshot_files import positions_in
from barque.testing.checkers.durable_log_view import DurableLogView
from barque.testing.sim.disk import SimDisk
from barque.types import Index, IndexTerm, ServerId, Term, Uid


class Violation(msgspec.Struct, frozen=True):
    """A property that does not hold. `states` are the facts that contradict each other."""

    name: str
    text: str
    states: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join((f"{self.name}: {self.text}", *(f"    {state}" for state in self.states)))


Report = Callable[[Violation], None]
UidOf = Callable[[ServerId], Uid | None]


class Incarnation(NamedTuple):
    """One member as long as it keeps its data: a later server at its address is another incarnation."""

    id: ServerId
    uid: Uid

    def __str__(self) -> str:
        return f"{self.id} ({self.uid})"


def incarnation(server: Server) -> Incarnation:
    """The incarnation that this server is."""
    return Incarnation(server.id, server.cfg.uid)


class Elections:
    """I1, I2, I3: one leader a term, one vote a term, and growing terms, judged by what servers send."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._leaders: dict[Term, Incarnation] = {}
        self._votes: dict[tuple[Incarnation, Term], ServerId] = {}
        self._promised: dict[Incarnation, Term] = {}
        self.count = 0

    def leads(self, server: Incarnation, term: Term) -> None:
        """A server acts as the leader of this term."""
        if term not in self._leaders:
            self.count += 1
        known = self._leaders.setdefault(term, server)
        if known != server:
            states = (f"{known} led in term {term}", f"{server} leads in term {term}")
            self._report(Violation("election safety (I1)", f"two leaders in term {term}", states))

    def leader_of(self, term: Term) -> Incarnation | None:
        """The leader of this term, if it had one."""
        return self._leaders.get(term)

    def leaders_until(self, term: Term) -> list[str]:
        """All leaders of this term and of earlier terms."""
        return [str(leader.id) for led, leader in self._leaders.items() if led <= term]

    def promised(self, server: Incarnation) -> Term:
        """The highest term in which a server has sent anything."""
        return self._promised.get(server, Term(0))

    def votes(self, voter: Incarnation, candidate: ServerId, term: Term) -> None:
        """A server grants a vote."""
        known = self._votes.setdefault((voter, term), candidate)
        if known != candidate:
            states = (f"{voter} voted for {known}", f"{voter} votes for {candidate}")
            self._report(Violation("vote safety (I2)", f"two votes in term {term}", states))

    def speaks(self, server: Incarnation, term: Term) -> None:
        """A server sends a message in this term: it may never again act in a lower one."""
        promised = self._promised.get(server, Term(0))
        if term < promised:
            states = (f"{server} has spoken in term {promised}", f"{server} acts in term {term}")
            self._report(Violation("terms grow (I3)", "a server went back to an old term", states))
        self._promised[server] = max(promised, term)

    def restarted(self, server: Incarnation, term: Term) -> None:
        """A server has recovered with this term."""
        promised = self._promised.get(server, Term(0))
        if term < promised:
            states = (f"{server} had spoken in term {promised}", f"{server} recovered term {term}")
            self._report(Violation("terms last (I3)", "a restart forgot a term", states))


class LogMatching:
    """I5: index and term of an entry determine its content, wherever it is sent."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._entries: dict[tuple[Index, Term], tuple[bytes, Term]] = {}
        self._seen: dict[tuple[Index, Term], int] = {}

    def sent(self, sender: ServerId, rpc: AppendEntriesRpc) -> list[EntryBatch]:
        """A leader sends entries; returns those that were never sent before."""
        previous = rpc.prev_log_term
        new = []
        for batch in rpc.entries:
            if self._seen.get((batch.first_index, batch.term)) != batch.count:
                self._look(sender, batch, previous)
                self._seen[batch.first_index, batch.term] = batch.count
                new.append(batch)
            previous = batch.term
        return new

    def _look(self, sender: ServerId, batch: EntryBatch, previous: Term) -> None:
        head = decode_head(batch.body)
        for offset, payload in enumerate(payloads_of(batch.body, batch.count, head)):
            position = (Index(batch.first_index + offset), batch.term)
            mine = (bytes([head.kind]) + payload, previous)
            known = self._entries.setdefault(position, mine)
            if known != mine:
                states = (f"before: {known}", f"{sender} sends: {mine}")
                self._report(Violation("log matching (I5)", f"two entries at {position}", states))
            previous = batch.term


class Committed:
    """I6, I7, I9: one command for each index, applied in order, and held by every later leader."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.entries: dict[Index, tuple[Term, str, Term]] = {}  # term, command, term of the committer
        self.newest = Index(0)

    def applied(self, who: str, index: Index, term: Term, command: str, current: Term) -> bool:
        """A machine applies a command. Returns whether it is the first to do so."""
        known = self.entries.get(index)
        if known is None:
            self.entries[index] = (term, command, current)
            self.newest = max(self.newest, index)
            return True
        if known[:2] != (term, command):
            states = (f"applied first: {known[1]} of term {known[0]}", f"{who} applies {command} of {term}")
            self._report(Violation("state machine safety (I7)", f"two commands at index {index}", states))
        return False

    def leader(self, server: Server) -> None:
        """A server has won an election: it must hold what earlier terms have committed."""
        covered = server.log.snapshot_index_term().index
        for index, (term, command, committed_in) in self.entries.items():
            if (
                index > covered
                and committed_in < server.current_term
                and server.log.fetch_term(index) != term
            ):
                found = server.log.fetch_term(index)
                states = (
                    f"term {committed_in} committed {command} at {index}, of term {term}",
                    f"{server.id}, leader of term {server.current_term}, has term {found} there",
                )
                text = "a leader lacks a committed entry"
                self._report(Violation("leader completeness (I6)", text, states))
                return


class Durability:
    """I8, I11, I12: what a server claims to have would survive a loss of power at this moment.

    A look at a disk takes time (`durable_log_view`). So this checker looks for a share `rate` of all
    acknowledgements and commits, and for each vote.
    """

    def __init__(
        self, report: Report, disks: dict[str, SimDisk], chance: random.Random, data: str, rate: float
    ) -> None:
        self._report = report
        self._disks = disks
        self._chance = chance
        self._data = data
        self._views = {node: DurableLogView(disk, data) for node, disk in disks.items()}
        self._rate = rate
        self._acked: dict[ServerId, tuple[IndexTerm, Term, Uid]] = {}  # and the promise's term, and whose
        self._replacing: dict[ServerId, dict[Term, Index]] = {}
        """By later term, the lowest index from which its leader replaces what the server has promised."""
        self.looks = 0

    def log(self, node: str, uid: Uid) -> Memtable:
        """The log that this node would have after a loss of power now."""
        self.looks += 1
        return self._views[node].log(uid)

    def hold(self, node: str, *, held: bool) -> None:
        """Use what the disk held before it was damaged; or look at the disk again."""
        if held:
            self._views[node].hold()
        else:
            self._views[node].release()

    def vote(self, voter: ServerId, uid: Uid, candidate: ServerId, term: Term) -> None:
        """A granted vote, or a request for votes, leaves a server."""
        found = self._meta(voter.node, uid)
        kept = found is not None and (
            found.current_term > term or (found.current_term, found.voted_for) == (term, candidate)
        )
        if not kept:
            states = (f"{voter} says: my vote of term {term} is for {candidate}", f"on its disk: {found}")
            self._report(Violation("votes are durable (I12)", "a vote left before it was synced", states))

    def _meta(self, node: str, uid: Uid) -> MetaRecord | None:
        disk = self._disks[node].survivor(join(self._data, "meta"))
        return MetaStore.open(disk, self._data).read(uid) if disk.exists(join(self._data, "meta")) else None

    def ack(self, server: ServerId, uid: Uid, last: IndexTerm, *, promised_in: Term | None) -> None:
        """A server acknowledges its log up to here, to a leader of the term `promised_in`."""
        known = self._acked.get(server)
        if promised_in is not None and (
            known is None or known[2] != uid or promised_in > known[1] or last.index > known[0].index
        ):
            # It may not have received yet what a newer leader had sent before this.
            replacing = self._replacing.get(server, {}).items()
            if all(term <= promised_in or first > last.index for term, first in replacing):
                self._acked[server] = (last, promised_in, uid)
        if last.index and self._chance.random() < self._rate:
            found = self.log(server.node, uid).fetch_term(last.index)
            if found != last.term and last.index > self.covered(server.node, uid):
                states = (f"{server} says it has {last}", f"on its disk: term {found} at {last.index}")
                text = "an acknowledgement left before the entry was synced"
                self._report(Violation("acks are durable (I11)", text, states))

    def may_overwrite(self, server: ServerId, rpc: AppendEntriesRpc) -> None:
        """A newer leader may replace what this server has promised an older leader."""
        if not rpc.entries:
            return
        first = rpc.entries[0].first_index
        replacing = self._replacing.setdefault(server, {})
        if first < replacing.get(rpc.term, first + 1):
            replacing[rpc.term] = first
        known = self._acked.get(server)
        if known is not None and rpc.term > known[1] and first <= known[0].index:
            del self._acked[server]

    def covered(self, node: str, uid: Uid) -> Index:
        """Up to where a snapshot on this disk stands for a server's entries."""
        disk, folder = self._disks[node].survivor(), join(self._data, f"servers/{uid}/snapshots")
        found = positions_in(disk, folder) if disk.is_dir(folder) else []
        return max((position.index for position in found), default=Index(0))

    def committed(self, index: Index, term: Term, members: Sequence[tuple[str, Uid]], quorum: int) -> None:
        """A leader has committed an entry: a majority must have it on disk."""
        if self._chance.random() < self._rate:
            found = {node: self.log(node, uid).fetch_term(index) for node, uid in members}
            holders = [
                there == term or index <= self.covered(node, uid)
                for (node, uid), there in zip(members, found.values(), strict=True)
            ]
            if sum(holders) < quorum:
                states = (f"committed: {index} of term {term}", f"terms on the disks: {found}")
                text = "an entry was committed that a majority does not have on disk"
                self._report(Violation("commits are durable (I8)", text, states))

    def restarted(self, server: Server) -> None:
        """A server has recovered: it must have at least what it once acknowledged."""
        known = self._acked.get(server.id)
        if (
            known is not None
            and known[2] == server.cfg.uid
            and known[0].index > server.log.snapshot_index_term().index
            and server.log.fetch_term(known[0].index) != known[0].term
        ):
            found = f"after its restart its log ends at {server.log.last_index_term()}"
            states = (f"{server.id} acknowledged {known[0]} in term {known[1]}", found)
            self._report(Violation("acks last (I11)", "a restart forgot acknowledged entries", states))
