"""What a server in `await_condition` may wait for (CORE-06; semantics §8)."""

from typing import assert_never

from barque.core.consistency import Found, has_entry
from barque.core.messages import AppendEntriesRpc, InstallSnapshotRpc, Message
from barque.core.server import Server


class CatchUp:
    """A follower with a gap, or a wrong end, waits for an RPC that continues its log."""

    __slots__ = ("missing",)

    def __init__(self, *, missing: bool) -> None:
        self.missing = missing

    def holds(self, server: Server, message: Message) -> bool:
        """An RPC of a current leader whose previous entry is ours.

        One that does not match is let through only if the gap was the reason: it has to be
        answered in another way then. Any RPC of a new leader is let through (in Ra it is not):
        our answer went to the old one.
        """
        if isinstance(message, InstallSnapshotRpc) and message.term >= server.current_term:
            return message.meta.position.index >= server.log.next_index()
        if not isinstance(message, AppendEntriesRpc) or message.term < server.current_term:
            return False
        if message.leader_id != server.leader_id or message.term > server.current_term:
            return True
        match has_entry(server, message.prev_log_index, message.prev_log_term):
            case Found.OK:
                return True
            case Found.MISMATCH:
                return self.missing
            case Found.MISSING:
                return False
            case found:
                assert_never(found)

    def __str__(self) -> str:
        return "the leader to send what is missing" if self.missing else "the leader to rewind"


class WalWritable:
    """The write-ahead log failed; wait until it takes writes again."""

    __slots__ = ()

    def holds(self, server: Server, message: Message) -> bool:
        """Any message may find the log writable again."""
        return server.log.can_write()

    def __str__(self) -> str:
        return "the write-ahead log to be writable"


class TransferDone:
    """A leader that handed over waits to hear from its successor (§3.10)."""

    __slots__ = ()

    def holds(self, server: Server, message: Message) -> bool:
        """An RPC that only a leader of a higher term sends."""
        return (
            isinstance(message, (AppendEntriesRpc, InstallSnapshotRpc)) and message.term > server.current_term
        )

    def __str__(self) -> str:
        return "the new leader to be heard"
