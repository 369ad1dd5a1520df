"""Planted bugs of what a snapshot holds, and of how it is sent and installed. See `mutants`."""

from typing import Any
from unittest.mock import patch

import msgspec

from barque.core import applying, captures, receive_snapshot
from barque.core.effects import TendSnapshots
from barque.core.log_contract import ChunkFlag
from barque.core.messages import ChunkOutcome, InstallSnapshotResult, InstallSnapshotRpc
from barque.core.roles import ReceivingRole
from barque.core.state import Server, records_of
from barque.runtime.performer import Performer
from tests.kit.mutant_registry import find, mutant, replace


@mutant("a state is captured when the effects are performed, after later commands (K2, I19)", layer="core")
def state_captured_late() -> Any:
    """See `MUTANTS`."""
    return patch.object(applying, "capture_effect", lambda _server, effect, _applied: effect)


@mutant("a snapshot holds no machine time (K1, I19)", layer="core")
def snapshot_without_time() -> Any:
    """See `MUTANTS`."""
    return patch.object(captures, "time_at", lambda *_: 0)


@mutant("a snapshot names the members of the moment in which it was made (B37)", layer="core")
def snapshot_members_of_now() -> Any:
    """See `MUTANTS`."""
    return patch.object(captures, "configuration_at", lambda server, _index: records_of(server.cluster))


@mutant("a snapshot names the newest version in the code, not the one in force (B37)", layer="node")
def snapshot_version_latest() -> Any:
    """See `MUTANTS`."""
    return patch.object(captures, "version_at", lambda server, _index: server.cfg.machine.version)


@mutant("a leader takes any late answer to a chunk for a success (K3)", layer="core")
def late_answer_counts() -> Any:
    """See `MUTANTS`."""
    real = find("on_install_snapshot_result")

    def on_result(server: Server, result: InstallSnapshotResult) -> Any:
        outcome = ChunkOutcome.INSTALLED if result.outcome is ChunkOutcome.REFUSED else result.outcome
        changed = msgspec.structs.replace(result, request_term=server.current_term, outcome=outcome)
        return real(server, changed)

    return replace("on_install_snapshot_result", on_result)


@mutant("a receiver does not notice that it has missed live entries (B36)", layer="core")
def live_entries_not_counted() -> Any:
    """See `MUTANTS`."""
    real = receive_snapshot._take_piece

    def take_piece(server: Server, role: ReceivingRole, rpc: InstallSnapshotRpc) -> bool:
        if role.pieces == 0 and rpc.chunk.flag in (ChunkFlag.NEXT, ChunkFlag.LAST):
            role.live_chunks = rpc.chunk.number - 1
        return real(server, role, rpc)

    return patch.object(receive_snapshot, "_take_piece", take_piece)


@mutant("a receiver says nothing to a snapshot that it does not need (B39)", layer="core")
def needless_snapshot_unanswered() -> Any:
    """See `MUTANTS`."""
    real = find("on_install_snapshot")

    def on_install(server: Server, rpc: InstallSnapshotRpc) -> Any:
        return [] if rpc.meta.position.index <= server.last_applied else real(server, rpc)

    return replace("on_install_snapshot", on_install)


@mutant("a chunk without an answer is never sent again, and the transfer never given up", layer="core")
def chunks_not_repeated() -> Any:
    """See `MUTANTS`."""
    return patch.dict(Performer.HANDLERS, {TendSnapshots: lambda *_: None})


@mutant("an installed snapshot leaves the old members in force (S-6)", layer="core")
def install_keeps_members() -> Any:
    """See `MUTANTS`."""
    real = Server.begin_from

    def begin_from(self: Server, meta: Any) -> None:
        if self.peers:
            meta = msgspec.structs.replace(meta, cluster=records_of(self.cluster))
        real(self, meta)

    return patch.object(Server, "begin_from", begin_from)


@mutant("an installed snapshot leaves the machine's time as it was (K1, S-6)", layer="core")
def install_keeps_time() -> Any:
    """See `MUTANTS`."""
    real = Server.begin_from

    def begin_from(self: Server, meta: Any) -> None:
        real(self, msgspec.structs.replace(meta, machine_time_ms=0))

    return patch.object(Server, "begin_from", begin_from)
