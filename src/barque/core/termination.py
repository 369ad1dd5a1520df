"""The end of a cluster, by consensus (CORE-09 to CORE-11, LIFE-06; semantics §10.6).

Once the deletion is applied a leader stays until everybody has it, or for a while; a follower
until it is on its disk. Whoever was away learns of it from the nodes, which remember.
"""

from barque.core.check_quorum import unresolved_from
from barque.core.effects import (
    Effect,
    Rejected,
    Rejection,
    SendRpc,
    StartConditionTimeout,
    StopReason,
    StopServer,
)
from barque.core.events import AwaitConditionTimeout, ForceMemberChange, LogEvent, Tick
from barque.core.messages import (
    AppendEntriesReply,
    AppendEntriesRpc,
    AuxCommand,
    Commands,
    DeleteCluster,
    JoinMember,
    LeaveMember,
    Message,
    Queries,
    TransferLeadership,
)
from barque.core.peers import PeerStatus
from barque.core.progress import on_append_entries_reply, on_leader_log_event
from barque.core.reception import append_entries_reply, on_append_entries, on_follower_log_event
from barque.core.replication import make_rpcs, pipelined_rpcs
from barque.core.server import RaftState, Server, Transition, refuse_commands
from barque.types import NOBODY, Index, ReplyMode


def begin_termination(server: Server, state: RaftState) -> Transition:
    """The deletion was applied in this state: wait for the others, or for the disk, or stop at once."""
    if state is not RaftState.LEADER:
        server.become_follower()
        return _finish_follower(server)
    rpcs, _ = pipelined_rpcs(server)
    refused = _refuse_waiting(server)
    done = _finish_leader(server)
    timeout = StartConditionTimeout(server.cfg.await_condition_timeout_ms)
    never = unresolved_from(server, Index(server.last_applied + 1))  # behind the deletion: not applied
    return Transition(done.state, [*refused, *never, *rpcs, *done.effects, timeout])


def _refuse_waiting(server: Server) -> list[Effect]:
    """Nobody is served any more. What waits would be refused by a cluster that is gone."""
    role = server.leader_role()
    effects = server.become_follower(Rejection.UNKNOWN_CLUSTER)
    server.role, server.leader_id = type(role)(), server.id
    return effects


def handle_terminating_leader(server: Server, message: Message) -> Transition:
    """§10.6: serve the members, nobody else; leave when all have the end of the log."""
    effects: list[Effect] = []
    match message:
        case AppendEntriesReply() if message.term > server.current_term:
            return _stop()  # another leads; it has the deletion, which is committed
        case AppendEntriesRpc() if message.term > server.current_term:
            return _stop()
        case AwaitConditionTimeout():
            return _stop()  # who was away that long learns it from our node
        case AppendEntriesReply():
            effects = on_append_entries_reply(server, message).effects
        case _ if isinstance(message, LogEvent):
            effects = on_leader_log_event(server, message).effects
        case Tick():
            effects = make_rpcs(server)
        case _:
            effects = _refuse(message)
    rpcs, _ = pipelined_rpcs(server)
    done = _finish_leader(server)
    return Transition(done.state, [*effects, *rpcs, *done.effects])


def _refuse(message: Message) -> list[Effect]:
    """Whoever asks is told that there is nothing left to ask; what concerns nobody is ignored."""
    gone = Rejection.UNKNOWN_CLUSTER
    match message:
        case Commands():
            return refuse_commands(message, gone, None)
        case Queries():
            return [Rejected(message.origin, message.first_correlation, len(message.payloads), gone)]
        case JoinMember() | LeaveMember() | DeleteCluster() if message.reply_mode is ReplyMode.NOREPLY:
            return []
        case JoinMember() | LeaveMember() | DeleteCluster() | TransferLeadership() | ForceMemberChange():
            return [Rejected(message.origin, message.correlation, 1, gone)]
        case AuxCommand() if message.origin != NOBODY:
            return [Rejected(message.origin, message.correlation, 1, gone)]
        case _:
            return []


def _finish_leader(server: Server) -> Transition:
    if is_fully_replicated(server):
        return _stop()
    return Transition(RaftState.TERMINATING_LEADER, [])


def handle_terminating_follower(server: Server, message: Message) -> Transition:
    """§10.6: only until the end of the log is on our disk."""
    effects: list[Effect] = []
    match message:
        case AppendEntriesRpc():
            effects = on_append_entries(server, message).effects
        case _ if isinstance(message, LogEvent):
            effects = on_follower_log_event(server, message).effects
        case AwaitConditionTimeout():
            return _stop()
        case _:
            effects = _refuse(message)
    done = _finish_follower(server)
    return Transition(done.state, [*effects, *done.effects])


def _finish_follower(server: Server) -> Transition:
    """With the last answer, so that the leader need not wait for us."""
    if not is_fully_persisted(server):
        timeout = StartConditionTimeout(server.cfg.await_condition_timeout_ms)
        entered = server.raft_state is not RaftState.TERMINATING_FOLLOWER
        return Transition(RaftState.TERMINATING_FOLLOWER, [timeout] if entered else [])
    stop = _stop()
    leader = server.leader_id
    if leader is None or leader == server.id:
        return stop
    last_answer = SendRpc(leader, append_entries_reply(server, success=True))
    return Transition(stop.state, [last_answer, *stop.effects])


def _stop() -> Transition:
    return Transition(RaftState.DELETE_AND_TERMINATE, [StopServer(StopReason.DELETED)])


def is_fully_replicated(server: Server) -> bool:
    """Whether every member has, and knows to be committed, all that is (COMMIT-09)."""
    return all(
        peer.match_index >= server.commit_index
        and peer.commit_index_sent >= server.commit_index
        and peer.status is not PeerStatus.SENDING_SNAPSHOT
        for _, peer in server.peers()
    )


def is_fully_persisted(server: Server) -> bool:
    """Whether all of the log is on disk (COMMIT-09)."""
    return server.log.last_written() == server.log.last_index_term()
