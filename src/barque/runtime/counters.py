"""Ra's counters, by Ra's names (CNT-01 to CNT-08), as plain integers in slots.

Code that counts does `counters.commands += n`; nothing else happens until somebody asks. Names of features
that Barque does not have yet (checkpoints, compaction) are absent rather than always zero.
"""

from collections.abc import Mapping
from typing import ClassVar, Protocol


class HasOverview(Protocol):
    """Anything that can show its counters, such as the transport's."""

    def overview(self) -> dict[str, int]:
        """All counters by name."""
        ...


class CounterGroup:
    """A fixed set of integers. `GAUGES` may fall; all others only grow while the process lives."""

    __slots__: tuple[str, ...] = ()
    GAUGES: ClassVar[frozenset[str]] = frozenset()

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, 0)

    def overview(self) -> dict[str, int]:
        """All counters by name."""
        return {name: getattr(self, name) for name in self.__slots__}


class LogCounters(CounterGroup):
    """What the log of one server did (CNT-01, CNT-02)."""

    __slots__ = (
        "fetch_term",
        "open_segments",
        "read_mem_table",
        "read_ops",
        "read_segment",
        "snapshot_bytes_written",
        "snapshot_installed",
        "snapshots_written",
        "write_ops",
        "write_resends",
    )
    GAUGES = frozenset(("open_segments",))
    fetch_term: int
    open_segments: int
    read_mem_table: int
    read_ops: int
    read_segment: int
    snapshot_bytes_written: int
    snapshot_installed: int
    snapshots_written: int
    write_ops: int
    write_resends: int


class RaftCounters(CounterGroup):
    """What one server did (CNT-03, CNT-04), and where it stands (CNT-05).

    Ours: `foreign_messages` came from another cluster, `stale_incarnations` from another incarnation
    of a member; both were dropped.
    """

    __slots__ = (
        "aer_received_follower",
        "aer_received_follower_empty",
        "aer_replies_fail",
        "aer_replies_success",
        "aux_commands",
        "command_flushes",
        "commands",
        "commit_index",
        "commit_latency",
        "consistent_queries",
        "dropped_sends",
        "effective_machine_version",
        "elections",
        "foreign_messages",
        "invalid_reply_mode_commands",
        "last_applied",
        "last_index",
        "last_written_index",
        "local_queries",
        "msgs_sent",
        "num_segments",
        "pre_vote_elections",
        "release_cursors",
        "rpcs_sent",
        "send_msg_effects_sent",
        "snapshot_index",
        "snapshots_sent",
        "stale_incarnations",
        "term",
        "term_and_voted_for_updates",
    )
    GAUGES = frozenset(
        (
            "last_applied",
            "commit_latency",
            "last_index",
            "last_written_index",
            "effective_machine_version",
            "num_segments",
        )
    )
    aer_received_follower: int
    aer_received_follower_empty: int
    aer_replies_fail: int
    aer_replies_success: int
    aux_commands: int
    command_flushes: int
    commands: int
    commit_index: int
    commit_latency: int
    consistent_queries: int
    dropped_sends: int
    effective_machine_version: int
    elections: int
    foreign_messages: int
    invalid_reply_mode_commands: int
    last_applied: int
    last_index: int
    last_written_index: int
    local_queries: int
    msgs_sent: int
    num_segments: int
    pre_vote_elections: int
    release_cursors: int
    rpcs_sent: int
    send_msg_effects_sent: int
    snapshot_index: int
    snapshots_sent: int
    stale_incarnations: int
    term: int
    term_and_voted_for_updates: int


class WalCounters(CounterGroup):
    """What the write-ahead log of one system did (CNT-06)."""

    __slots__ = (
        "batches",
        "bytes_written",
        "current_file_size",
        "max_file_size",
        "wal_files",
        "writes",
    )
    GAUGES = frozenset(("current_file_size", "max_file_size"))
    batches: int
    bytes_written: int
    current_file_size: int
    max_file_size: int
    wal_files: int
    writes: int


class SegmentWriterCounters(CounterGroup):
    """What the segment writer of one system did (CNT-07)."""

    __slots__ = (
        "bytes_written",
        "entries",
        "mem_tables",
        "segments",
    )
    bytes_written: int
    entries: int
    mem_tables: int
    segments: int


class ServerCounters:
    """All counters of one server."""

    __slots__ = ("log", "raft")

    def __init__(self) -> None:
        self.log = LogCounters()
        self.raft = RaftCounters()

    def overview(self) -> dict[str, int]:
        """All counters by name, the log's and the server's together."""
        return {**self.log.overview(), **self.raft.overview()}


class CounterRegistry:
    """The counters of a node by name, such as a server's id, `wal` or `transport` (CNT-08)."""

    def __init__(self) -> None:
        self._groups: dict[str, HasOverview] = {}

    def add(self, name: str, group: HasOverview) -> None:
        """Show a group under this name; one of the same name is replaced."""
        self._groups[name] = group

    def remove(self, name: str) -> None:
        """Show it no more."""
        self._groups.pop(name, None)

    def overview(self) -> Mapping[str, dict[str, int]]:
        """Every group's counters."""
        return {name: group.overview() for name, group in self._groups.items()}

    def counters(self, name: str, fields: tuple[str, ...] | None = None) -> dict[str, int] | None:
        """One group's counters, or some of them; None if there is no such group."""
        group = self._groups.get(name)
        if group is None:
            return None
        values = group.overview()
        return values if fields is None else {field: values[field] for field in fields if field in values}
