"""Replication: what a leader sends to its peers, and when (§3.5, §6.4; REPL-01 to REPL-12, QRY-06 to QRY-12).

`next_index` of a peer moves on when entries are sent, not when they are acknowledged (pipelining), up to
a limit of entries, and of bytes, in flight. Lost messages are found out in two ways: the peer's reply names
the index that it expects, and a tick asks each peer that owes a reply. An idle cluster sends nothing at all.
"""

from collections.abc import Sequence

from barque.core.effects import (
    CancelSnapshotRetry,
    Defer,
    Effect,
    SendRpc,
    SendSnapshot,
    StartSnapshotRetry,
)
from barque.core.entries import EntryBatch
from barque.core.events import PipelineRpcs
from barque.core.messages import AppendEntriesRpc, HeartbeatReply, HeartbeatRpc
from barque.core.roles import LeaderRole, RaftState
from barque.core.state import Peer, PeerStatus, Server
from barque.errors import Damaged, InvariantViolation, StorageError
from barque.types import Index, ServerId


def pipelined_rpcs(server: Server, *, force: bool = False) -> tuple[list[Effect], bool]:
    """Send each peer what it lacks, up to the pipeline's limits (REPL-03 to REPL-09).

    Moves `next_index` on without waiting for answers. The last RPC may exceed the limit of bytes, so that an
    entry of any size gets through. Also returns whether more could be sent at once. `force` lets a noop
    through a full pipeline (ELEC-24).
    """
    effects: list[Effect] = []
    more = False
    cfg, next_index = server.cfg, server.log.next_index()
    limit, bytes_limit = cfg.max_pipeline_count, cfg.max_pipeline_bytes
    made: SendRpc | None = None  # for the peer before; the next one mostly needs the same
    made_for = (Index(0), 0)
    for member, peer in server.peers:
        if peer.next_index >= next_index and peer.commit_index_sent >= server.commit_index:
            continue
        if peer.status is not PeerStatus.NORMAL:
            continue
        in_flight = peer.next_index - peer.match_index - 1
        if (in_flight >= limit or peer.bytes_in_flight >= bytes_limit) and not force:
            continue
        room = limit - in_flight
        if room > cfg.max_append_entries_rpc_batch_size:
            room = cfg.max_append_entries_rpc_batch_size
        elif room < 1:
            room = 1
        if made is not None and made_for == (peer.next_index, room):
            effect: SendRpc | SendSnapshot | StartSnapshotRetry = SendRpc(member, made.message)
        else:
            made_for = (peer.next_index, room)
            effect = make_rpc(server, member, peer, room)
            made = effect if type(effect) is SendRpc else None
        effects.append(effect)
        if type(effect) is not SendRpc:
            continue
        rpc = effect.message
        assert type(rpc) is AppendEntriesRpc
        if rpc.entries:
            last_index = rpc.entries[-1].last_index
            peer.next_index = Index(last_index + 1)
            size = 0
            for batch in rpc.entries:
                size += len(batch.body)
            peer.sent.append((last_index, size))
            peer.bytes_in_flight += size
        peer.commit_index_sent = server.commit_index
        sent = peer.next_index - peer.match_index - 1
        room_left = sent < limit and peer.bytes_in_flight < bytes_limit
        more = more or (peer.next_index < next_index and room_left)
    return effects, more


def has_entries_to_send(server: Server) -> bool:
    """Whether a leader could send entries to some peer now."""
    if server.raft_state is not RaftState.LEADER:
        return False
    next_index, limit = server.log.next_index(), server.cfg.max_pipeline_count
    bytes_limit = server.cfg.max_pipeline_bytes
    for _, peer in server.peers:  # a loop: each turn asks, and a generator costs a call a peer
        if peer.next_index >= next_index or peer.status is not PeerStatus.NORMAL:
            continue
        if peer.next_index - peer.match_index - 1 < limit and peer.bytes_in_flight < bytes_limit:
            return True
    return False


def make_rpc(
    server: Server, member: ServerId, peer: Peer, max_entries: int
) -> SendRpc | SendSnapshot | StartSnapshotRetry:
    """The RPC that continues this peer's log, with at most `max_entries` entries.

    If the log no longer holds them, or the entry before them, send the snapshot instead (SEND-01). If the
    disk refuses to tell, try this peer again after a pause: others may be served from memory.
    """
    try:
        return _make_rpc(server, member, peer, max_entries)
    except Damaged:
        raise  # our log has lost entries: we must not lead with it
    except StorageError:
        peer.status = PeerStatus.SNAPSHOT_BACKOFF
        return StartSnapshotRetry(member, server.cfg.snapshot_backoff_ms)


def _make_rpc(
    server: Server, member: ServerId, peer: Peer, max_entries: int
) -> SendRpc | SendSnapshot | StartSnapshotRetry:
    prev_index = Index(peer.next_index - 1)
    prev_term = server.log.fetch_term(prev_index)
    if prev_term is None:
        return send_snapshot(server, member, peer)
    entries: Sequence[EntryBatch] = ()
    if max_entries and peer.next_index < server.log.next_index():
        last = server.log.last_index_term().index
        entries = server.log.read(peer.next_index, last, max_entries, server.cfg.max_append_entries_rpc_bytes)
        if not entries:  # the position before the first entry of all is always known
            return send_snapshot(server, member, peer)
    rpc = AppendEntriesRpc(
        server.current_term, server.id, server.commit_index, prev_index, prev_term, tuple(entries)
    )
    return SendRpc(member, rpc)


def send_snapshot(server: Server, member: ServerId, peer: Peer) -> SendSnapshot | StartSnapshotRetry:
    """SEND-01: send the snapshot, and nothing else to this peer until it is installed or has failed.

    A peer whose code cannot apply the snapshot's machine version would drop it: ask again later (SEND-02).
    """
    meta = server.log.snapshots.current()
    if meta is None or peer.next_index > meta.position.index:
        missing = peer.next_index - 1
        raise InvariantViolation(f"{server.id}: neither entry {missing} nor a snapshot of it is here")
    if peer.machine_version is not None and peer.machine_version < meta.machine_version:
        peer.status = PeerStatus.SNAPSHOT_BACKOFF
        return StartSnapshotRetry(member, server.cfg.snapshot_backoff_ms)
    peer.status = PeerStatus.SENDING_SNAPSHOT
    peer.next_index = max(meta.position.index, Index(peer.match_index + 1))
    peer.give_up_sent()
    return SendSnapshot(member, meta, server.current_term)


def make_rpcs(server: Server) -> list[Effect]:
    """One small RPC to each stale peer, and the heartbeats due; Ra's `make_rpcs` (REPL-10).

    Silent when all peers are in sync. Moves no index: the reply shows what was lost. A full pipeline
    gets no further entry.
    """
    bytes_limit = server.cfg.max_pipeline_bytes
    rpcs: list[Effect] = [
        make_rpc(server, member, peer, 1 if peer.bytes_in_flight < bytes_limit else 0)
        for member, peer in server.peers
        if peer.status is PeerStatus.NORMAL and is_stale(server, peer)
    ]
    return rpcs + heartbeats_due(server, server.leader_role())


def probe_node(server: Server, node: str) -> list[Effect]:
    """A node came within reach: send its members an RPC. They hear who leads, and reply how far they are.

    A member that could not be sent a snapshot is tried again (REPL-23, SEND-07).
    """
    effects: list[Effect] = []
    for member, peer in server.peers:
        if member.node != node or peer.status is PeerStatus.SENDING_SNAPSHOT:
            continue
        effects += _reach_again(member, peer)
        peer.commit_index = Index(0)  # what it told before may be from before a restart
        effects.append(make_rpc(server, member, peer, 1))
    return effects + heartbeats_due(server, server.leader_role())


def broadcast_append(server: Server) -> list[Effect]:
    """Send an AppendEntries to each peer, to assert our leadership (ELEC-10)."""
    effects: list[Effect] = []
    for member, peer in server.peers:
        if peer.status in (PeerStatus.NORMAL, PeerStatus.SNAPSHOT_BACKOFF):
            effects += _reach_again(member, peer)
            effects.append(make_rpc(server, member, peer, 1))
    return effects + heartbeats_due(server, server.leader_role())


def _reach_again(member: ServerId, peer: Peer) -> list[Effect]:
    """End a back-off of this peer."""
    waited = peer.status is PeerStatus.SNAPSHOT_BACKOFF
    peer.status = PeerStatus.NORMAL
    return [CancelSnapshotRetry(member)] if waited else []


def is_stale(server: Server, peer: Peer) -> bool:
    """Whether this peer owes a reply, or has not confirmed our commit index.

    That we have sent the commit index is not enough: a full channel drops messages, and a follower that
    waits for missing entries ignores it (W-6).
    """
    behind = peer.match_index < peer.next_index - 1 or peer.next_index < server.log.next_index()
    return behind or min(peer.commit_index, peer.commit_index_sent) < server.commit_index


def on_pipeline_rpcs(server: Server, _message: PipelineRpcs) -> list[Effect]:
    """L-16: one round of replication, and another if there is more."""
    rpcs, more = pipelined_rpcs(server)
    return [Defer(PipelineRpcs()), *rpcs] if more else rpcs


# --- heartbeats: proof of leadership for reads, and nothing else (§6.4) ------------------------


def heartbeats_due(server: Server, role: LeaderRole) -> list[Effect]:
    """A heartbeat for each peer that has not answered the newest round, if one is open."""
    if not role.waiting_queries:
        return []
    heartbeat = HeartbeatRpc(server.query_index, server.current_term, server.id)
    return [
        SendRpc(member, heartbeat)
        for member, peer in server.peers
        if peer.status is PeerStatus.NORMAL and peer.query_index < server.query_index
    ]


def on_heartbeat(server: Server, rpc: HeartbeatRpc) -> list[Effect]:
    """F-3: confirm that this leader leads our term. The reply carries the question's number (QRY-08)."""
    return refuse_heartbeat(server, rpc)


def refuse_heartbeat(server: Server, rpc: HeartbeatRpc) -> list[Effect]:
    """F-4: the same reply to a leader of a lower term, which steps down when it reads our term."""
    return [SendRpc(rpc.leader_id, HeartbeatReply(server.id, rpc.query_index, server.current_term))]
