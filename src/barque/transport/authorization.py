"""What each role may send: one table for every message of the wire and every administrative verb.

Roles are ordered, and each may do what the roles below it may do. A connection has the role that its
credentials have proved (`handshake`). The receiving side asks `forbids` before it acts on a message; a
message or a verb without a row is for nobody. Page: docs/operations/security.md.
"""

import enum

from barque.core.messages import RemoteMessage
from barque.errors import Forbidden
from barque.transport.wire import ClientAnswer, ClientCall, ClientCommands, ClientQueries, NodeMessage


class Role(enum.IntEnum):
    """What the other end of a connection may do."""

    CLIENT = 1
    """Commands and reads of clusters, and questions that change nothing."""
    ADMIN = 2
    """Also changes of clusters, of their members, and of who leads."""
    NODE = 3
    """Also everything that nodes say to each other, under the name that was proved."""


MESSAGES: dict[type, Role] = {
    ClientCommands: Role.CLIENT,
    ClientQueries: Role.CLIENT,
    ClientCall: Role.CLIENT,  # and then as `VERBS` says
    **dict.fromkeys(RemoteMessage.__args__, Role.NODE),
    **dict.fromkeys(NodeMessage.__args__, Role.NODE),
    **dict.fromkeys(ClientAnswer.__args__, Role.NODE),
}
"""The role that may send a message."""

VERBS: dict[str, Role] = {
    "ping": Role.CLIENT,
    "pid": Role.CLIENT,
    "nodes": Role.CLIENT,
    "status": Role.CLIENT,
    "local_report": Role.CLIENT,
    "members": Role.CLIENT,
    "overview": Role.CLIENT,
    "node_overview": Role.CLIENT,
    "member_list": Role.CLIENT,
    "aux_command": Role.CLIENT,
    "initial_members": Role.CLIENT,
    "key_metrics": Role.CLIENT,
    "query": Role.CLIENT,
    "state_query": Role.CLIENT,
    "new_uid": Role.CLIENT,
    "transfer_leadership": Role.ADMIN,
    "trigger_election": Role.ADMIN,
    "start_cluster": Role.ADMIN,
    "start_or_restart_cluster": Role.ADMIN,
    "cluster_delete": Role.ADMIN,
    "member_add": Role.ADMIN,
    "member_remove": Role.ADMIN,
    "member_promote": Role.ADMIN,
    "member_replace": Role.ADMIN,
    "member_demote": Role.ADMIN,
    "server_start": Role.ADMIN,
    "server_restart": Role.ADMIN,
    "server_stop": Role.ADMIN,
    "force_shrink": Role.ADMIN,
    "force_delete_server": Role.ADMIN,
    "snapshot": Role.ADMIN,
    "trigger_compaction": Role.ADMIN,
    "make_linked_copy": Role.ADMIN,
    "remove_linked_copy": Role.ADMIN,
    "start_server": Role.NODE,
    "discard_server": Role.NODE,
    "describe_server": Role.NODE,
    "server_keep_data": Role.NODE,
}
"""The role that may ask for a verb. Nodes ask each other for the last four, with ids that they have made."""


def needed_role(message: object) -> Role:
    """The lowest role that may send this message; for a call, the role of its verb."""
    if isinstance(message, ClientCall):
        return VERBS.get(message.verb, Role.NODE)
    return MESSAGES.get(type(message), Role.NODE)


def forbids(role: Role, message: object) -> Forbidden | None:
    """The error for a message that this role may not send; None if it may."""
    needed = needed_role(message)
    if role >= needed:
        return None
    what = repr(message.verb[:64]) if isinstance(message, ClientCall) else type(message).__name__
    return forbidden(what, role, needed)


def forbidden(what: str, role: Role, needed: Role) -> Forbidden:
    """The error that names what was asked for, the role that was proved, and the role that may."""
    cure = {
        Role.ADMIN: "give the administrators' secret or certificate (--secret-file)",
        Role.NODE: "only nodes may, with the nodes' secret or certificate",
        Role.CLIENT: "",
    }[needed]
    return Forbidden(
        f"{what} needs the role {needed.name.lower()}, this connection has {role.name.lower()}; {cure}"
    )
