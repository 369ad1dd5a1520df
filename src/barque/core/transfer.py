"""Leadership transfer (§3.10; XFER-01 to XFER-04, L-35), and the choice of a successor."""

from collections.abc import Container

from barque.core.effects import Applied, Effect, Rejected, Rejection, SendRpc
from barque.core.messages import TimeoutNow, TransferLeadership
from barque.core.roles import RaftState, TransferDone
from barque.core.state import Server
from barque.core.transitions import become_waiting
from barque.types import ServerId


def on_transfer_leadership(server: Server, request: TransferLeadership) -> list[Effect]:
    """L-35: hand over to a voter whose log is as long as ours.

    `ok` means that the target was asked to campaign, not that it has won. If it does not win in time,
    because the question was lost or it has lost entries, we lead on.
    """
    target = server.cluster.get(request.target)
    if request.target == server.id:
        return [Applied(request.origin, request.correlation, ["already_leader"])]
    if target is None:
        return _refuse(server, request, Rejection.UNKNOWN_MEMBER)
    if not target.voter:
        return _refuse(server, request, Rejection.NON_VOTER)
    if target.next_index != server.log.next_index():
        return _refuse(server, request, Rejection.NOT_UP_TO_DATE)
    return [
        Applied(request.origin, request.correlation, ["ok"]),
        SendRpc(request.target, TimeoutNow(server.id)),
        *become_waiting(server, TransferDone(), server.cfg.transfer_timeout_ms, timeout_to=RaftState.LEADER),
    ]


def _refuse(server: Server, request: TransferLeadership, reason: str) -> list[Effect]:
    return [Rejected(request.origin, request.correlation, 1, reason, server.id)]


def refuse_transfer(server: Server, request: TransferLeadership) -> list[Effect]:
    """Only a leader can hand over."""
    leader = server.leader_id if server.leader_id != server.id else None
    return [Rejected(request.origin, request.correlation, 1, Rejection.NOT_LEADER, leader)]


def best_successor(server: Server, nodes: Container[str] | None = None) -> ServerId | None:
    """The voter with the most entries on disk; of equals the first by id. `nodes` are those that count."""
    voters = [
        (member, peer)
        for member, peer in server.peers
        if peer.voter and (nodes is None or member.node in nodes)
    ]
    if not voters:
        return None
    return max(voters, key=lambda entry: entry[1].match_index)[0]


def offer_leadership(server: Server) -> list[Effect]:
    """Ask the best successor, if there is one, to campaign at once."""
    successor = best_successor(server)
    return [] if successor is None else [SendRpc(successor, TimeoutNow(server.id))]
