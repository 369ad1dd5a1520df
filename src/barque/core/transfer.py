"""Leadership transfer (§3.10; XFER-01 to XFER-04, L-35)."""

from barque.core.conditions import TransferDone
from barque.core.effects import Applied, Rejected, Rejection, SendRpc, StartConditionTimeout
from barque.core.messages import TimeoutNow, TransferLeadership
from barque.core.roles import WaitingRole
from barque.core.server import RaftState, Server, Transition


def on_transfer_leadership(server: Server, request: TransferLeadership) -> Transition:
    """L-35: hand over to a voter whose log is as long as ours.

    The answer means that the request is under way, not that the target has won. If it does not in time,
    because it heard nothing of it or has lost what it had, we lead on.
    """
    target = server.cluster.get(request.target)
    if request.target == server.id:
        return server.stay(Applied(request.origin, request.correlation, ["already_leader"]))
    if target is None:
        return _refuse(server, request, Rejection.UNKNOWN_MEMBER)
    if not target.voter:
        return _refuse(server, request, Rejection.NON_VOTER)
    if target.next_index != server.log.next_index():
        return _refuse(server, request, Rejection.NOT_UP_TO_DATE)
    server.role = WaitingRole(TransferDone(), timeout_to=RaftState.LEADER, resume=server.leader_role())
    return Transition(
        RaftState.AWAIT_CONDITION,
        [
            Applied(request.origin, request.correlation, ["ok"]),
            SendRpc(request.target, TimeoutNow(server.id)),
            StartConditionTimeout(server.cfg.transfer_timeout_ms),
        ],
    )


def _refuse(server: Server, request: TransferLeadership, reason: str) -> Transition:
    return server.stay(Rejected(request.origin, request.correlation, 1, reason, server.id))


def refuse_transfer(server: Server, request: TransferLeadership) -> Transition:
    """Only a leader can hand over."""
    leader = server.leader_id if server.leader_id != server.id else None
    return server.stay(Rejected(request.origin, request.correlation, 1, Rejection.NOT_LEADER, leader))
