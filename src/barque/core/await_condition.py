"""Waiting for one condition to come true (CORE-06; semantics §8). The conditions are in `roles`.

A follower waits for an RPC that continues its log, or for its log to be writable. A leader waits for its log,
or for its successor; it keeps its leadership (`WaitingRole.resume`) and takes it up again, unless a higher
term ends it. Requests of clients are refused meanwhile. News that a leader is told once (a node came back, a
client is gone, a machine's timer has expired) waits with it (`WaitingRole.later`).
"""

from barque.core import messages as m
from barque.core.append_entries import on_apply_rest
from barque.core.aux_machine import cast_aux, on_node_event_aux, on_process_down_aux
from barque.core.commands import on_resume
from barque.core.commitment import note_position, progress
from barque.core.dispatch import LOG_EVENTS, each, ignore, on, total
from barque.core.effects import Defer, Effect, NextEvent
from barque.core.elections import (
    is_leader_node,
    on_election_timeout,
    on_leader_node_lost,
    on_pre_vote,
    on_request_vote,
    on_server_down,
)
from barque.core.events import PipelineRpcs
from barque.core.membership import give_way_to_force
from barque.core.not_leader import REFUSED_REQUESTS
from barque.core.queries import answer_proven
from barque.core.roles import RaftState, WaitingRole
from barque.core.snapshots import on_sender_down
from barque.core.state import Server
from barque.core.transitions import become_follower, resume_leadership
from barque.core.versions import on_info_rpc
from barque.machine.effects import Timer


def _waiting(server: Server) -> WaitingRole:
    assert isinstance(server.role, WaitingRole)
    return server.role


def _keep(server: Server, news: m.Message) -> list[Effect]:
    """Nobody tells this news again: a leader that waits handles it when it leads again.

    News that was told twice counts once; a machine that appends the same command twice wants two.
    """
    role = _waiting(server)
    if role.resume is not None and (type(news) is m.MachineAppend or news not in role.later):
        role.later.append(news)
    return []


def _keep_or_check(server: Server, news: m.Message) -> list[Effect]:
    """W-6; but if the wait goes on, keep the news."""
    return _check(server, news) or _keep(server, news)


def _on_process_down(server: Server, event: m.ProcessDown) -> list[Effect]:
    """MON-02: the aux machine hears of it at once; the machine's own monitors concern a leader."""
    machine = event.component is m.Component.MACHINE
    return _keep(server, event) if machine else on_process_down_aux(server, event)


def _on_node_event(server: Server, event: m.NodeEvent) -> list[Effect]:
    """MON-03: likewise."""
    machine = event.component is m.Component.MACHINE
    return _keep(server, event) if machine else on_node_event_aux(server, event)


def _on_server_down(server: Server, event: m.ServerDown) -> list[Effect]:
    """§10.9: the leader that a follower waits for is gone."""
    if event.server != server.leader_id:
        return _keep(server, event)
    return [*become_follower(server), *on_server_down(server, event)]


def _on_node_status(server: Server, status: m.NodeStatus) -> list[Effect]:
    """FD-03. A leader that comes within reach may have missed our reply, so a follower repeats it."""
    role = _waiting(server)
    if role.resume is not None:
        return _keep(server, status)
    if not is_leader_node(server, status):
        return []
    if status.up:
        return [*role.timeout_effects]
    return [*become_follower(server), *on_leader_node_lost(server)]


def _check(server: Server, message: m.Message) -> list[Effect]:
    """W-6: if the condition holds now, leave, and handle the message there. Otherwise drop the message."""
    role = _waiting(server)
    if not role.condition.holds(server.log, message):
        return []
    return [*_leave(server, role, role.transition_to), NextEvent(message)]


def _on_apply_rest(server: Server, message: m.ApplyRest) -> list[Effect]:
    """A leader's callers want answers, so it goes on when it leads again (`_leave`)."""
    return on_apply_rest(server, message) if _waiting(server).resume is None else []


def _on_tick(server: Server, tick: m.Tick) -> list[Effect]:
    """W-6; while the wait goes on, only the aux machine needs ticks (AUX-03)."""
    return _check(server, tick) or cast_aux(server, "tick")


def _on_append_entries_reply(server: Server, reply: m.AppendEntriesReply) -> list[Effect]:
    """W-6; a leader that waits still learns which entries its peers have."""
    if _waiting(server).resume is not None:
        note_position(server, reply)
    return _check(server, reply)


def _on_log_event(server: Server, event: m.LogEvent) -> list[Effect]:
    """W-5."""
    server.log.handle_event(event)
    role = _waiting(server)
    if not role.condition.holds(server.log, event):
        return []
    return _leave(server, role, role.transition_to)


def _on_timeout(server: Server, message: m.AwaitConditionTimeout) -> list[Effect]:
    """W-4: check once more, then give up as arranged."""
    role = _waiting(server)
    if role.condition.holds(server.log, message):
        return _leave(server, role, role.transition_to)
    return [*_leave(server, role, role.timeout_to), *role.timeout_effects]


def _leave(server: Server, role: WaitingRole, state: RaftState) -> list[Effect]:
    """Go on as a leader, with the entries that became durable meanwhile, or as a follower."""
    if state is not RaftState.LEADER:
        return become_follower(server)
    effects = resume_leadership(server, role)
    later = _still_news(role.later, effects)
    applied = [*progress(server), *answer_proven(server)]
    return [*effects, *applied, Defer(PipelineRpcs()), *on_resume(server), *later]


def _still_news(later: list[m.Message], effects: list[Effect]) -> list[Effect]:
    """What to handle now, unless the machine has just set the timer anew that expired during the wait."""
    anew = {effect.name for effect in effects if isinstance(effect, Timer)}
    return [NextEvent(n) for n in later if not (isinstance(n, m.MachineTimeout) and n.name in anew)]


AWAIT_CONDITION = total(
    "await_condition",
    on(m.RequestVoteRpc, on_request_vote),  # W-1
    on(m.PreVoteRpc, on_pre_vote),  # W-2
    each(on_election_timeout, m.ElectionTimeout, m.TimeoutNow),  # W-3
    on(m.AwaitConditionTimeout, _on_timeout),
    each(_on_log_event, *LOG_EVENTS),
    on(m.ServerDown, _on_server_down),
    on(m.NodeStatus, _on_node_status),
    on(m.SnapshotSenderDown, on_sender_down),
    on(m.ForceMemberChange, give_way_to_force),  # Ra lets the caller wait in vain (MEMB-15)
    # §10.9: clients are not served meanwhile
    REFUSED_REQUESTS,
    on(m.ProcessDown, _on_process_down),
    on(m.NodeEvent, _on_node_event),
    # W-6; heartbeats get no reply from here (QRY-19)
    on(m.AppendEntriesReply, _on_append_entries_reply),
    each(_check, m.AppendEntriesRpc, m.InstallSnapshotRpc, m.HeartbeatRpc),
    on(m.InfoRpc, on_info_rpc),  # asked once a term; facts about ourselves need no wait
    each(_check, m.HeartbeatReply, m.InfoReply),  # a tick asks again
    each(_check, m.RequestVoteResult, m.PreVoteResult),
    # work of a leader that waits: `on_resume` and the next tick begin it again
    on(m.Tick, _on_tick),
    on(m.ApplyRest, _on_apply_rest),
    each(_check, m.PipelineRpcs, m.FlushCommands, m.AppendNoop),
    # nobody tells these again
    each(_keep_or_check, m.MachineTimeout, m.MachineAppend, m.InstallSnapshotResult),
    each(ignore, m.SnapshotRetryTimeout, m.QuorumTimeout, m.ReceiveSnapshotTimeout),
)
