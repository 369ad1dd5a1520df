"""Candidates, in a trial election (`pre_vote`, §9.6) and in a real one (§3.4; semantics §4, §5).

Both wait for votes and do most things alike: a leader of their term ends the candidacy (the term rule sees
to that), requests of clients are refused, and log events are recorded.
"""

from barque.core import messages as m
from barque.core.append_entries import on_apply_rest
from barque.core.dispatch import FROM_LEADER, LOG_EVENTS, Row, each, ignore, impossible, on, total
from barque.core.effects import Effect, StartElectionTimeout, TimerSpan
from barque.core.elections import (
    on_node_up,
    on_pre_vote,
    on_pre_vote_result,
    on_request_vote_result,
    refuse_vote,
)
from barque.core.membership import give_way_to_force
from barque.core.not_leader import NOT_LEADER
from barque.core.roles import CandidateRole
from barque.core.state import Server
from barque.core.transitions import become_candidate, become_pre_candidate


def _on_election_timeout(server: Server, _message: m.ElectionTimeout) -> list[Effect]:
    """C-15: probably a split vote (§3.4). Try again, with more time; after that, ask for pre-votes (§9.6).

    A candidate that cannot win would inflate the term, and servers that could win would never catch up
    with it.
    """
    assert isinstance(server.role, CandidateRole)
    if server.role.retried:
        return become_pre_candidate(server)
    return [*become_candidate(server, retried=True), StartElectionTimeout(TimerSpan.MEDIUM)]


def _on_pre_vote_timeout(server: Server, _message: m.ElectionTimeout) -> list[Effect]:
    """P-9: ask again. The state stays, so entering it arms no timer."""
    return [*become_pre_candidate(server), StartElectionTimeout(TimerSpan.MEDIUM)]


def _on_log_event(server: Server, event: m.LogEvent) -> list[Effect]:
    """C-14, P-11."""
    server.log.handle_event(event)
    return []


def _on_node_status(server: Server, status: m.NodeStatus) -> list[Effect]:
    """A node came within reach: its members may have missed the question."""
    return on_node_up(server, status.node) if status.up else []


_BOTH: list[list[Row]] = [
    each(impossible, *FROM_LEADER),  # a leader of our term has ended the candidacy (C-4, C-6, C-12, P-1)
    on(m.RequestVoteRpc, refuse_vote),  # C-10, P-4: we have voted for ourselves
    on(m.PreVoteRpc, on_pre_vote),  # C-11, P-8
    each(_on_log_event, *LOG_EVENTS),
    on(m.ApplyRest, on_apply_rest),
    on(m.NodeStatus, _on_node_status),
    on(m.ForceMemberChange, give_way_to_force),  # C-16, P-11
    NOT_LEADER,
    # C-8: replies to a leadership of this term, which a candidate cannot have had
    each(ignore, m.AppendEntriesReply, m.HeartbeatReply, m.InstallSnapshotResult, m.InfoReply),
    # we campaign already
    each(ignore, m.TimeoutNow, m.ServerDown),
    # left over from a leadership that has ended, or from a wait
    each(ignore, m.Tick, m.PipelineRpcs, m.FlushCommands, m.AppendNoop, m.MachineTimeout, m.MachineAppend),
    each(ignore, m.SnapshotSenderDown, m.SnapshotRetryTimeout, m.QuorumTimeout),
    each(ignore, m.AwaitConditionTimeout, m.ReceiveSnapshotTimeout),
]

CANDIDATE = total(
    "candidate",
    on(m.RequestVoteResult, on_request_vote_result),  # C-1 to C-3
    on(m.ElectionTimeout, _on_election_timeout),
    on(m.PreVoteResult, ignore),  # C-18: we have won that round already
    *_BOTH,
)

PRE_VOTE = total(
    "pre_vote",
    on(m.PreVoteResult, on_pre_vote_result),  # P-3, P-6, P-7
    on(m.ElectionTimeout, _on_pre_vote_timeout),
    on(m.RequestVoteResult, ignore),  # of a candidacy in this term that we have given up
    *_BOTH,
)
