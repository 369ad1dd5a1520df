"""The aux machine: volatile, of one member, outside the log (AUX-01 to AUX-07; L-13)."""

from collections.abc import Sequence
from typing import Any

import msgspec

from barque.core.applying import decode_entries, take_callback_effects
from barque.core.effects import Applied, Effect, Rejected, Rejection
from barque.core.entries import BODY_BYTES_MAX
from barque.core.events import Component, NodeEvent, ProcessDown
from barque.core.messages import AuxCommand
from barque.core.overview import members_info, overview
from barque.core.state import Server
from barque.machine.machine import AuxKind, AuxResult, Down, NodeDown, NodeUp
from barque.types import NOBODY, Index, IndexTerm, ServerId, Term

_decode = msgspec.msgpack.Decoder().decode


class MemberView:
    """The read-only view of its server that an aux machine gets (`Member`)."""

    __slots__ = ("_server",)

    def __init__(self, server: Server) -> None:
        self._server = server

    @property
    def machine_state(self) -> Any:
        """The machine's state."""
        return self._server.machine_state

    @property
    def effective_machine_version(self) -> int:
        """The version in force."""
        return self._server.effective_machine_version

    @property
    def leader_id(self) -> ServerId | None:
        """The leader, if this server knows one."""
        return self._server.leader_id

    @property
    def current_term(self) -> Term:
        """The present term."""
        return self._server.current_term

    @property
    def last_applied(self) -> Index:
        """The index of the last applied entry."""
        return self._server.last_applied

    def last_index_term(self) -> IndexTerm:
        """The end of the log."""
        return self._server.log.last_index_term()

    def read_commands(self, indexes: Sequence[int]) -> list[Any]:
        """The user commands at these indexes; entries that are missing are left out."""
        return log_read(self._server, indexes)

    def log_stats(self) -> dict[str, Any]:
        """Facts about the log."""
        return self._server.log.overview()

    def wal_fill_ratio(self) -> float:
        """How full the present file of the write-ahead log is; 0 for a log without one."""
        return float(self.log_stats().get("wal_fill_ratio", 0))

    def snapshot_size(self) -> int:
        """The size of the present snapshot, in bytes."""
        return int(self.log_stats().get("snapshots", {}).get("snapshot_size", 0))

    def members_info(self) -> dict[ServerId, dict[str, Any]]:
        """Facts about each member: all of them on a leader, our own elsewhere."""
        return members_info(self._server)

    def overview(self) -> dict[str, Any]:
        """Facts for an operator."""
        return overview(self._server)


def run_aux(server: Server, kind: AuxKind, command: Any) -> tuple[Any, list[Effect]]:
    """Hand one command to the aux machine; return its reply and its effects. Raises what it raises."""
    result: AuxResult = server.machine.handle_aux(
        str(server.raft_state), kind, command, server.aux_state, MemberView(server)
    )
    server.aux_state = result.aux
    return result.reply, take_callback_effects(server, result.effects, "handle_aux")


def run_aux_call(server: Server, command: AuxCommand) -> list[Effect]:
    """AUX-02, AUX-04: run a call or a cast. An exception is the caller's error only."""
    called = command.origin != NOBODY
    if not server.has_aux:
        refusal = Rejected(command.origin, command.correlation, 1, Rejection.AUX_NOT_IMPLEMENTED)
        return [refusal] if called else []
    try:
        reply, effects = run_aux(server, AuxKind.CALL if called else AuxKind.CAST, _decode(command.payload))
    except Exception as error:
        text = {0: f"{type(error).__name__}: {error}"}
        return [Applied(command.origin, command.correlation, [None], text)] if called else []
    return [Applied(command.origin, command.correlation, [reply]), *effects] if called else effects


def on_aux_command(server: Server, command: AuxCommand) -> list[Effect]:
    """L-13: the aux machine runs in any state. Refuse a consistent command: only a leader serves it."""
    if command.consistent:
        leader = server.leader_id if server.leader_id != server.id else None
        return [Rejected(command.origin, command.correlation, 1, Rejection.NOT_LEADER, leader)]
    return run_aux_call(server, command)


def cast_aux(server: Server, command: Any) -> list[Effect]:
    """AUX-03: tell the aux machine, if there is one, what happened around this member."""
    return run_aux(server, AuxKind.CAST, command)[1] if server.has_aux else []


def on_process_down_aux(server: Server, event: ProcessDown) -> list[Effect]:
    """MON-02: a process that the aux machine watches is gone. The machine's own monitors concern a leader."""
    if event.component is not Component.AUX:
        return []
    return cast_aux(server, Down(event.pid, event.reason))


def on_node_event_aux(server: Server, event: NodeEvent) -> list[Effect]:
    """MON-03: a node that the aux machine monitors came or went."""
    if event.component is not Component.AUX:
        return []
    return cast_aux(server, NodeUp(event.node) if event.up else NodeDown(event.node))


def log_read(server: Server, indexes: Sequence[int]) -> list[Any]:
    """Ra's `log_read`: the user commands at these indexes, in this order; missing entries are left out."""
    commands = []
    for index in indexes:
        for batch in server.log.read(Index(index), Index(index), 1, BODY_BYTES_MAX):
            commands += decode_entries(server, batch)
    return commands
