"""The end of a cluster, by consensus (CORE-09 to CORE-11, LIFE-06; semantics §10.6).

Once it has applied the deletion, a leader stays until every member has the end of the log, or for a while;
a follower stays until that end is on its own disk. Then both stop. A member that was away learns of the
deletion from the nodes of the others, which remember it.
"""

from typing import Any

from barque.core import messages as m
from barque.core.append_entries import append_entries_reply, on_append_entries
from barque.core.check_quorum import unresolved_from
from barque.core.commitment import note_position
from barque.core.dispatch import FROM_LEADER, LOG_EVENTS, Row, each, ignore, impossible, on, total
from barque.core.effects import (
    Effect,
    Rejected,
    Rejection,
    SendRpc,
    StartConditionTimeout,
    StopReason,
    refuse_commands,
)
from barque.core.replication import make_rpcs, pipelined_rpcs
from barque.core.roles import RaftState
from barque.core.state import PeerStatus, Server
from barque.core.transitions import (
    become_stopped,
    become_terminating_follower,
    become_terminating_leader,
)
from barque.types import NOBODY, Index, ReplyMode

# --- the beginning ---------------------------------------------------------------------------


def begin_termination(server: Server) -> list[Effect]:
    """The deletion was applied: wait for the other members, or for the disk, or stop at once."""
    timeout = StartConditionTimeout(server.cfg.await_condition_timeout_ms)
    if server.raft_state is not RaftState.LEADER:
        return [*become_terminating_follower(server), timeout, *_stop_if_persisted(server)]
    refused = become_terminating_leader(server)
    never = unresolved_from(server, Index(server.last_applied + 1))  # behind the deletion: never applied
    return [*refused, *never, timeout, *_replicate_or_stop(server)]


# --- a leader --------------------------------------------------------------------------------


def _replicate_or_stop(server: Server) -> list[Effect]:
    rpcs, _ = pipelined_rpcs(server)
    return [*rpcs, *_stop(server)] if is_fully_replicated(server) else rpcs


def _on_append_entries_reply(server: Server, reply: m.AppendEntriesReply) -> list[Effect]:
    """A member has more of the log."""
    note_position(server, reply)
    return _replicate_or_stop(server)


def _on_leader_log_event(server: Server, event: m.LogEvent) -> list[Effect]:
    """Our own disk has more of the log; what it has is committed without us."""
    server.log.handle_event(event)
    return _replicate_or_stop(server)


def _on_tick(server: Server, _tick: m.Tick) -> list[Effect]:
    """Send again what was lost."""
    return [*make_rpcs(server), *_replicate_or_stop(server)]


# --- a follower ------------------------------------------------------------------------------


def _stop_if_persisted(server: Server) -> list[Effect]:
    """Stop once the end of the log is on our disk. A last reply saves the leader a wait."""
    if not is_fully_persisted(server):
        return []
    leader = server.leader_id
    if leader is None or leader == server.id:
        return _stop(server)
    return [SendRpc(leader, append_entries_reply(server, success=True)), *_stop(server)]


def _on_append_entries(server: Server, rpc: m.AppendEntriesRpc) -> list[Effect]:
    """Take what the leader sends; `step` begins the end anew if that makes us wait for something else."""
    effects = on_append_entries(server, rpc)
    if server.raft_state is not RaftState.TERMINATING_FOLLOWER:
        return effects
    return effects + _stop_if_persisted(server)


def _on_follower_log_event(server: Server, event: m.LogEvent) -> list[Effect]:
    """Our disk has more of the log."""
    before = server.log.last_written()
    server.log.handle_event(event)
    after, leader = server.log.last_written(), server.leader_id
    effects: list[Effect] = []
    if leader is not None and leader != server.id and after != before and not is_fully_persisted(server):
        effects = [SendRpc(leader, append_entries_reply(server, success=True))]
    return effects + _stop_if_persisted(server)


# --- both ------------------------------------------------------------------------------------


def _on_timeout(server: Server, _timeout: m.AwaitConditionTimeout) -> list[Effect]:
    """Give up: a member that was away for that long learns of the deletion from our node."""
    return _stop(server)


def _stop(server: Server) -> list[Effect]:
    return become_stopped(server, StopReason.DELETED)


def is_fully_replicated(server: Server) -> bool:
    """Whether every member has all that is committed, and knows that it is (COMMIT-09)."""
    return all(
        peer.match_index >= server.commit_index
        and peer.commit_index_sent >= server.commit_index
        and peer.status is not PeerStatus.SENDING_SNAPSHOT
        for _, peer in server.peers
    )


def is_fully_persisted(server: Server) -> bool:
    """Whether all of the log is on disk (COMMIT-09)."""
    return server.log.last_written() == server.log.last_index_term()


def _refuse_commands(_server: Server, commands: m.Commands) -> list[Effect]:
    """The cluster is gone."""
    return refuse_commands(commands, Rejection.UNKNOWN_CLUSTER, None)


def _refuse_queries(_server: Server, queries: m.Queries) -> list[Effect]:
    """The cluster is gone."""
    size = len(queries.payloads)
    return [Rejected(queries.origin, queries.first_correlation, size, Rejection.UNKNOWN_CLUSTER)]


def _refuse_request(_server: Server, request: Any) -> list[Effect]:
    """The cluster is gone."""
    return [Rejected(request.origin, request.correlation, 1, Rejection.UNKNOWN_CLUSTER)]


def _refuse_change(server: Server, change: Any) -> list[Effect]:
    """The cluster is gone; a caller that wants no reply gets none."""
    return [] if change.reply_mode is ReplyMode.NOREPLY else _refuse_request(server, change)


def _refuse_aux(server: Server, command: m.AuxCommand) -> list[Effect]:
    """The cluster is gone; nobody waits for a cast."""
    return [] if command.origin == NOBODY else _refuse_request(server, command)


_BOTH: list[list[Row]] = [
    on(m.AwaitConditionTimeout, _on_timeout),
    on(m.Commands, _refuse_commands),
    on(m.Queries, _refuse_queries),
    each(_refuse_change, m.JoinMember, m.LeaveMember, m.DeleteCluster),
    each(_refuse_request, m.TransferLeadership, m.ForceMemberChange),
    on(m.AuxCommand, _refuse_aux),
    # the cluster elects nobody any more, and the deletion is committed
    each(ignore, m.RequestVoteRpc, m.RequestVoteResult, m.PreVoteRpc, m.PreVoteResult),
    each(ignore, m.ElectionTimeout, m.TimeoutNow, m.ServerDown, m.NodeStatus),
    # neither reads nor versions nor snapshots matter now
    each(ignore, m.HeartbeatReply, m.InfoReply, m.InstallSnapshotResult),
    each(ignore, m.SnapshotSenderDown, m.SnapshotRetryTimeout, m.ReceiveSnapshotTimeout, m.QuorumTimeout),
    # the machine has had its last word ("eol", CORE-11)
    each(ignore, m.MachineTimeout, m.MachineAppend, m.ProcessDown, m.NodeEvent),
    # left over from a leadership
    each(ignore, m.PipelineRpcs, m.FlushCommands, m.AppendNoop, m.ApplyRest),
]

TERMINATING_LEADER = total(
    "terminating_leader",
    on(m.AppendEntriesReply, _on_append_entries_reply),
    each(_on_leader_log_event, *LOG_EVENTS),
    on(m.Tick, _on_tick),
    each(impossible, *FROM_LEADER),  # another leader of our term
    *_BOTH,
)

TERMINATING_FOLLOWER = total(
    "terminating_follower",
    on(m.AppendEntriesRpc, _on_append_entries),
    each(_on_follower_log_event, *LOG_EVENTS),
    each(ignore, m.HeartbeatRpc, m.InfoRpc, m.InstallSnapshotRpc),  # the leader needs nothing of these now
    each(ignore, m.AppendEntriesReply, m.Tick),
    *_BOTH,
)
