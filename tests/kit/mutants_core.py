"""Planted bugs of replication, commitment, application and reads. See `mutants`."""

from typing import Any
from unittest.mock import patch

import msgspec

from barque.core import commitment
from barque.core.effects import Applied, SendRpc
from barque.core.messages import AppendEntriesReply, AppendEntriesRpc, HeartbeatReply, WalFailed, WalUp
from barque.core.quorum import agreed
from barque.core.state import RaftState, Server
from barque.log.log import WalLog
from barque.testing.core.memory_log import MemoryLog
from barque.types import Index, Term
from tests.kit.mutant_registry import find, lower_term_passes, mutant, replace, together

OLD_REPLY = (
    "such a reply ends with an entry of an earlier term, which is never committed by counting; "
    "together with `commits_earlier_terms` it would matter"
)
OLD_ANSWER = (
    "round numbers go on across terms, and messages to a process end with it; "
    "if the numbers began again, it would matter"
)


# --- replication ---------------------------------------------------------------------------


@mutant("a leader commits entries of earlier terms by counting (row 19)", layer="core")
def commits_earlier_terms() -> Any:
    """See `MUTANTS`."""

    def advance(server: Server) -> bool:
        candidate = agreed(commitment.match_indexes(server))
        moved = candidate > server.commit_index
        server.commit_index = max(server.commit_index, Index(candidate))
        return moved

    return replace("advance_commit_index", advance)


@mutant("a leader counts itself before its own sync (row 43)", layer="core")
def leader_counts_unwritten() -> Any:
    """See `MUTANTS`."""

    def match(server: Server) -> list[Index]:
        own = server.log.last_index_term().index
        return [own] + [peer.match_index for _, peer in server.peers if peer.voter]

    return replace("match_indexes", match)


@mutant("a follower acknowledges before its sync (rows 23, 87)", layer="core")
def follower_acks_before_sync() -> Any:
    """See `MUTANTS`."""
    real = find("_write_new")

    def write(server: Server, rpc: Any, new: Any) -> Any:
        done = real(server, rpc, new)
        last = server.log.last_index_term()
        reply = AppendEntriesReply(
            server.id, server.current_term, True, server.log.next_index(), last.index, last.term
        )
        return [*done, SendRpc(rpc.leader_id, reply)]

    return replace("_write_new", write)


@mutant("a follower always cuts off the entries behind an RPC (row 26)", layer="core")
def truncates_always() -> Any:
    """See `MUTANTS`."""
    real = find("_nothing_new")

    def cut(server: Server, rpc: Any, matched: Index) -> Any:
        if server.last_applied <= matched < server.log.last_index_term().index:
            server.log.set_last_index(matched)
        return real(server, rpc, matched)

    return replace("_nothing_new", cut)


@mutant("a leader accepts replies of earlier terms (row 16)", layer="core", equivalent=OLD_REPLY)
def old_reply_accepted() -> Any:
    """See `MUTANTS`."""
    return lower_term_passes(AppendEntriesReply)


@mutant("a follower commits up to its leader's commit index, validated or not (row 20)", layer="core")
def commits_unvalidated() -> Any:
    """See `MUTANTS`."""
    real = find("_nothing_new")

    def commit(server: Server, rpc: Any, matched: Index) -> Any:
        done = real(server, rpc, matched)
        last = server.log.last_index_term().index
        return [*done, *find("advance_commit")(server, rpc.leader_commit, last)]

    return replace("_nothing_new", commit)


@mutant("a leader takes a reply's next index for what is durable (row 24)", layer="core")
def match_from_next_index() -> Any:
    """See `MUTANTS`."""
    real = find("_note")

    def count(server: Server, peer: Any, reply: AppendEntriesReply) -> Any:
        if not reply.success:
            return real(server, peer, reply)
        last = Index(min(reply.next_index, server.log.next_index()) - 1)
        term = server.log.fetch_term(last) or Term(0)
        return real(server, peer, msgspec.structs.replace(reply, last_index=last, last_term=term))

    return replace("_note", count)


# --- reads and clients ---------------------------------------------------------------------


@mutant("a leader answers consistent reads without a round (row 33)", layer="core")
def read_without_round() -> Any:
    """See `MUTANTS`."""

    def answer(server: Server, _role: Any, pending: Any) -> Any:
        real = find("_answer")
        return [effect for waiting in pending for effect in real(server, waiting)]

    return replace("_start_round", answer)


@mutant("a new leader reads before its noop is committed (row 34)", layer="core")
def read_before_noop() -> Any:
    """See `MUTANTS`."""
    real = find("on_queries")

    def read(server: Server, message: Any) -> Any:
        role = server.leader_role()
        established, role.established = role.established, True
        try:
            return real(server, message)
        finally:
            role.established = established

    return replace("on_queries", read)


@mutant("any heartbeat reply confirms the newest round (row 35)", layer="core")
def old_round_confirms() -> Any:
    """See `MUTANTS`."""
    real = find("on_heartbeat_reply")

    def confirm(server: Server, reply: HeartbeatReply) -> Any:
        return real(server, msgspec.structs.replace(reply, query_index=server.query_index))

    return replace("on_heartbeat_reply", confirm)


@mutant("replies to heartbeats of another term count (row 36)", layer="core", equivalent=OLD_ANSWER)
def query_index_not_reset() -> Any:
    """See `MUTANTS`."""
    become = find("become_leader")

    def keep(server: Server) -> Any:
        known = {member: peer.query_index for member, peer in server.peers}
        done = become(server)
        for member, peer in server.peers:
            peer.query_index = known[member]
        return done

    return together(
        lower_term_passes(HeartbeatReply),
        replace("become_leader", keep),
    )


@mutant("a leader that steps down drops the reads that wait", layer="core")
def waiting_reads_dropped() -> Any:
    """See `MUTANTS`."""

    def forget(*_: Any) -> list[Any]:
        return []

    return replace("_refuse_what_waits", forget)


@mutant("a follower keeps conflicting entries (I5)", layer="core")
def conflicts_kept() -> Any:
    """See `MUTANTS`."""
    real = find("drop_present")

    def keep(server: Server, rpc: Any) -> Any:
        last = server.log.last_index_term().index
        new = [b.cut(max(b.first_index, last + 1), b.last_index) for b in rpc.entries if b.last_index > last]
        if len(new) < len(rpc.entries) and not new:
            return [], rpc.entries[-1].last_index
        return real(server, rpc) if not rpc.entries else (new, rpc.prev_log_index)

    return replace("drop_present", keep)


@mutant("a follower does not compare the previous entry's term (§3.5)", layer="core")
def previous_term_not_compared() -> Any:
    """See `MUTANTS`."""
    real = find("find_entry")

    def found(log: Any, index: Index, term: Term) -> Any:
        ours = log.fetch_term(index)
        return real(log, index, ours if ours is not None else term)

    return replace("find_entry", found)


@mutant(
    "a follower commits up to its leader's commit index, beyond the entries that it was sent",
    layer="core",
    equivalent="it commits only after its whole log was compared, so the bound is the end of the log",
)
def commit_not_bounded() -> Any:
    """See `MUTANTS`."""
    real = find("advance_commit")

    def advance(server: Server, leader_commit: Index, _matched: Index) -> Any:
        return real(server, leader_commit, server.log.last_index_term().index)

    return replace("advance_commit", advance)


@mutant("a follower's commit index falls to its leader's (I9)", layer="core")
def commit_index_falls() -> Any:
    """See `MUTANTS`."""
    real = find("advance_commit")

    def advance(server: Server, leader_commit: Index, matched: Index) -> Any:
        server.commit_index = min(leader_commit, matched)
        return real(server, leader_commit, matched)

    return replace("advance_commit", advance)


@mutant("a server applies entries before they are committed (I9)", layer="core")
def applies_uncommitted() -> Any:
    """See `MUTANTS`."""
    real = find("apply_to")

    def apply(server: Server, _target: Index) -> Any:
        return real(server, server.log.last_index_term().index)

    return patch("barque.core.append_entries.apply_to", apply)


@mutant("a follower obeys a leader of an earlier term", layer="core")
def old_leader_obeyed() -> Any:
    """See `MUTANTS`."""
    return lower_term_passes(AppendEntriesRpc)


@mutant("a leader never goes back to the entries that a follower lacks", layer="core")
def never_rewinds() -> Any:
    """See `MUTANTS`."""
    return replace("_rewind", lambda *_: None)


@mutant("a leader shortens its log to its follower's (I4)", layer="core")
def leader_truncates() -> Any:
    """See `MUTANTS`."""
    real = find("_rewind")

    def shorten(server: Server, peer: Any, reply: AppendEntriesReply) -> None:
        if server.commit_index <= reply.last_index < server.log.last_index_term().index:
            server.log.set_last_index(reply.last_index)
        real(server, peer, reply)

    return replace("_rewind", shorten)


@mutant("a leader sends an RPC that skips an entry (row 25)", layer="core")
def rpc_with_a_hole() -> Any:
    """See `MUTANTS`."""
    real = find("make_rpc")

    def skip(server: Server, member: Any, peer: Any, max_entries: int) -> Any:
        sent = real(server, member, peer, max_entries)
        if not isinstance(sent, SendRpc) or len(getattr(sent.message, "entries", ())) < 3:
            return sent
        rpc: Any = sent.message
        return SendRpc(member, msgspec.structs.replace(rpc, entries=(rpc.entries[0], *rpc.entries[2:])))

    return replace("make_rpc", skip)


@mutant("a follower answers a mismatch with its applied index, on the disk or not (row 24)", layer="core")
def rewind_claims_unwritten() -> Any:
    """See `MUTANTS`."""
    real = find("rewind_to_applied")

    def claim(server: Server) -> Any:
        reply = real(server)
        term = server.log.fetch_term(server.last_applied) or Term(0)
        return msgspec.structs.replace(reply, last_index=server.last_applied, last_term=term)

    return replace("rewind_to_applied", claim)


@mutant("a partial success claims the end of the log (row 21)", layer="core")
def reply_claims_the_end() -> Any:
    """See `MUTANTS`."""

    def wrong(server: Server, *, success: bool) -> Any:
        last = server.log.last_index_term()
        following = server.log.next_index()
        return AppendEntriesReply(server.id, server.current_term, success, following, last.index, last.term)

    return replace("append_entries_reply", wrong)


@mutant("the first answer to a round proves it (row 33)", layer="core")
def one_answer_proves() -> Any:
    """See `MUTANTS`."""
    return patch("barque.core.queries.agreed", lambda rounds: max(rounds))


@mutant("a leader answers commands when it appends them (row 23)", layer="core")
def answered_when_appended() -> Any:
    """See `MUTANTS`."""
    real = find("apply_to")

    def apply(server: Server, target: Index) -> Any:
        if server.raft_state is RaftState.LEADER:
            target = server.log.last_index_term().index
            server.commit_index = max(server.commit_index, target)
        return real(server, target)

    return patch("barque.core.commitment.apply_to", apply)


@mutant("the answer to one command goes to the next one", layer="core")
def answers_shifted() -> Any:
    """See `MUTANTS`."""
    real = find("_apply_user")

    def shift(server: Server, batch: Any, head: Any, effects: Any) -> None:
        before = len(effects)
        real(server, batch, head, effects)
        effects[before:] = [
            msgspec.structs.replace(e, first_correlation=e.first_correlation + 1)
            if isinstance(e, Applied)
            else e
            for e in effects[before:]
        ]

    return replace("_apply_user", shift)


@mutant("a follower that waits for missing entries ignores a new leader (row 62)", layer="core")
def waiting_for_one_leader_only() -> Any:
    """See `MUTANTS`."""
    real = find("_adopt_higher_term")

    def keep_out(server: Server, kind: Any, message: Any, effects: list[Any]) -> Any:
        waits = server.raft_state is RaftState.AWAIT_CONDITION
        return not (waits and kind.from_leader) and real(server, kind, message, effects)

    return together(
        patch("barque.core.roles.CatchUp.holds", lambda *_: False),
        replace("_adopt_higher_term", keep_out),
    )


@mutant("a server forgets pending entries after a failure of the log", layer="core")
def pending_lost_with_the_log() -> Any:
    """See `MUTANTS`."""

    def handle(self: MemoryLog, event: Any) -> None:
        if isinstance(event, WalUp):
            self._up = True
        elif isinstance(event, WalFailed):
            self._up = False
            self._submitted.clear()
            self._written = self.last_index_term()
        else:
            real(self, event)

    real = MemoryLog.handle_event

    def resubmit(self: WalLog) -> None:
        last = self._memtable.last()
        self._last_written = last
        self._wal.register(self._uid, last.index)

    return together(
        patch.object(MemoryLog, "handle_event", handle), patch.object(WalLog, "resubmit", resubmit)
    )
