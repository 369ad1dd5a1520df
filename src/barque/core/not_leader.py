"""The rows that every server shares that does not lead."""

from barque.core import messages as m
from barque.core.aux_machine import on_aux_command, on_node_event_aux, on_process_down_aux
from barque.core.commands import refuse_here
from barque.core.dispatch import Row, each, on
from barque.core.membership import refuse_change
from barque.core.queries import refuse_queries
from barque.core.transfer import refuse_transfer

REFUSED_REQUESTS: list[Row] = [
    # only a leader serves these (CMD-14, §10.9): the refusal names the leader, if we know it
    *on(m.Commands, refuse_here),
    *on(m.Queries, refuse_queries),
    *on(m.TransferLeadership, refuse_transfer),
    *each(refuse_change, m.JoinMember, m.LeaveMember, m.DeleteCluster),
    # the aux machine runs on every member
    *on(m.AuxCommand, on_aux_command),
]

NOT_LEADER: list[Row] = [
    *REFUSED_REQUESTS,
    # the machine's own monitors concern a leader
    *on(m.ProcessDown, on_process_down_aux),
    *on(m.NodeEvent, on_node_event_aux),
]
