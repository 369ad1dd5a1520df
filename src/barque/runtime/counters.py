"""Ra's counters of a server, by Ra's names (CNT-03 to CNT-05), as plain integers in slots.

Code that counts does `counters.commands += n`; nothing else happens until somebody asks. What a log and its
snapshots count themselves (CNT-01, CNT-02) is in `Log.counters`.
"""

from typing import ClassVar


class ServerCounters:
    """What one server did, and where it stands. `GAUGES` may fall; all others only grow.

    Ours: `foreign_messages` came from another cluster, `stale_incarnations` from another incarnation
    of a member. The first were dropped; of the second, those that could make a majority.
    `terms_refused` named terms that no elections reach, and were dropped.
    """

    __slots__ = (
        "aer_received_follower",
        "aer_received_follower_empty",
        "aer_replies_fail",
        "aer_replies_success",
        "aux_commands",
        "checkpoints",
        "command_flushes",
        "commands",
        "commit_index",
        "commit_latency",
        "consistent_queries",
        "dropped_sends",
        "effective_machine_version",
        "elections",
        "forced_gcs",
        "foreign_messages",
        "invalid_reply_mode_commands",
        "last_applied",
        "last_index",
        "last_written_index",
        "local_queries",
        "mod_call_failures",
        "mod_calls",
        "msgs_sent",
        "pre_vote_elections",
        "release_cursors",
        "rpcs_sent",
        "send_msg_effects_sent",
        "snapshot_index",
        "snapshots_sent",
        "stale_incarnations",
        "term",
        "term_and_voted_for_updates",
        "terms_refused",
    )
    GAUGES: ClassVar[frozenset[str]] = frozenset(
        ("last_applied", "commit_latency", "last_index", "last_written_index", "effective_machine_version")
    )
    aer_received_follower: int
    aer_received_follower_empty: int
    aer_replies_fail: int
    aer_replies_success: int
    aux_commands: int
    checkpoints: int
    command_flushes: int
    commands: int
    commit_index: int
    commit_latency: int
    consistent_queries: int
    dropped_sends: int
    effective_machine_version: int
    elections: int
    forced_gcs: int
    foreign_messages: int
    invalid_reply_mode_commands: int
    last_applied: int
    last_index: int
    last_written_index: int
    local_queries: int
    mod_call_failures: int
    mod_calls: int
    msgs_sent: int
    pre_vote_elections: int
    release_cursors: int
    rpcs_sent: int
    send_msg_effects_sent: int
    snapshot_index: int
    snapshots_sent: int
    stale_incarnations: int
    term: int
    term_and_voted_for_updates: int
    terms_refused: int

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, 0)

    def overview(self) -> dict[str, int]:
        """All counters by name."""
        return {name: getattr(self, name) for name in self.__slots__}
