"""Every metric of a node, and what it tells; docs/operations/monitoring.md lists them.

`barque_NAME_total` is the sum over the members on the node, `barque_member_NAME` a member's own figure.
"""

from collections.abc import Mapping
from typing import Final

from barque.gateways.http.exposition import Metric, counter, gauge

COUNTERS: Final[Mapping[str, str]] = {
    "aer_received_follower": "AppendEntries with entries that members have received",
    "aer_received_follower_empty": "AppendEntries without entries that members have received",
    "aer_replies_fail": "Refusals of their own AppendEntries",
    "aer_replies_success": "Successful replies to their own AppendEntries",
    "aux_commands": "Commands for aux machines",
    "checkpoint_bytes_written": "Bytes of checkpoints",
    "checkpoints": "How often machines offered their state for a checkpoint",
    "checkpoints_promoted": "Checkpoints that became snapshots",
    "checkpoints_written": "Checkpoints that were written",
    "command_flushes": "Appends of queued low-priority commands",
    "commands": "Commands that reached members, refused ones included",
    "consistent_queries": "Linearizable reads that reached members",
    "dropped_sends": "Messages to other members that were dropped: no link, or too much waits for it",
    "elections": "How often members became candidates",
    "fetch_term": "Questions for the term of an entry",
    "foreign_messages": "Messages of other clusters, dropped",
    "forced_gcs": "How often machines let Python collect garbage",
    "invalid_reply_mode_commands": "Commands refused for a reply mode that nobody knows",
    "local_queries": "Local reads that members have answered",
    "major_compaction_segments_compacted": "Segments that major compactions have replaced",
    "major_compaction_segments_written": "Segments that major compactions have written",
    "major_compactions": "How often segments were rewritten without what nobody needs",
    "minor_compactions": "How often whole segments were dropped below a snapshot",
    "mod_call_failures": "Calls of machines that raised, or named no function, or found too many waiting",
    "mod_calls": "Functions of the program that machines have called",
    "msgs_sent": "Messages to other members and clients",
    "pre_vote_elections": "How often members asked whether others would vote for them",
    "read_mem_table": "Entries that were read from memory",
    "read_ops": "Reads of logs",
    "read_segment": "Entries that were read from segments",
    "release_cursors": "How often machines let go of their log",
    "rpcs_sent": "Requests and answers of Raft that were sent",
    "send_msg_effects_sent": "Messages of machines to clients",
    "snapshot_bytes_written": "Bytes of snapshots",
    "snapshot_installed": "Snapshots of leaders that were installed",
    "snapshots_damaged": "Snapshots that were found damaged while their member ran",
    "snapshots_sent": "Snapshots that leaders began to send",
    "snapshots_written": "Snapshots that were written",
    "stale_incarnations": "Messages of servers that speak for a member and have other data",
    "term_and_voted_for_updates": "Terms and votes that were stored",
    "terms_refused": "Messages with a term that no elections reach",
    "write_ops": "Calls that added entries to logs",
    "write_resends": "Entries that were handed to the write-ahead log once more",
}
"""Ra's counters of a server and its log, by Ra's names, and ours (CNT-01 to CNT-04)."""

GAUGES: Final[Mapping[str, str]] = {
    "checkpoint_index": "Index of the newest checkpoint",
    "commit_index": "Index of the last entry known to be committed",
    "commit_latency": "Milliseconds from append on the leader to apply here, of the last batch",
    "effective_machine_version": "Version of the machine in force",
    "last_applied": "Index of the last entry applied",
    "last_index": "Index of the last entry in the log",
    "last_written_index": "Index of the last entry known to be on disk",
    "num_segments": "Segment files",
    "open_segments": "Segment files that are open",
    "snapshot_index": "Index of the newest snapshot",
    "term": "Current term",
}
"""Where a member stands (CNT-05)."""

TOTALS: Final[Mapping[str, Metric]] = {n: counter(f"barque_{n}", text) for n, text in COUNTERS.items()}
MEMBER: Final[Mapping[str, Metric]] = {
    **{name: counter(f"barque_member_{name}", f"{text}; of one member") for name, text in COUNTERS.items()},
    **{name: gauge(f"barque_member_{name}", f"{text}; of one member") for name, text in GAUGES.items()},
}
MEMBER_LEADS: Final = gauge("barque_member_leads", "1 if this member leads its cluster")
MEMBER_HAS_LEADER: Final = gauge("barque_member_has_leader", "1 if this member knows its leader")
MEMBER_FAILED: Final = gauge("barque_member_failed", "1 if this member has stopped after an error")

BUILD: Final = gauge("barque_build_info", "1, with the name of the node and the release")
UPTIME: Final = gauge("barque_uptime_seconds", "Seconds since the node started")
STALL: Final = gauge("barque_longest_stall_seconds", "How late the event loop was at worst")
MEMBERS: Final = gauge("barque_members", "Members on this node, by state")
SHOWN: Final = gauge("barque_members_shown", "Members with samples of their own on this page")
LEADERLESS: Final = gauge("barque_members_without_leader", "Members that know no leader")
WAITING: Final = gauge("barque_requests_waiting", "Commands and reads that came in here and wait")
WAITING_BYTES: Final = gauge("barque_requests_waiting_bytes", "Their bytes")
CAMPAIGNS_WAITING: Final = gauge("barque_campaigns_waiting", "Members that wait for their turn to campaign")

WAL: Final[Mapping[str, Metric]] = {
    "wal_files": counter("barque_wal_files", "Files that the write-ahead log has begun"),
    "batches": counter("barque_wal_batches", "Writes with a sync"),
    "writes": counter("barque_wal_writes", "Records of single members in them"),
    "bytes_written": counter("barque_wal_written_bytes", "Bytes written to the write-ahead log"),
    "current_file_size": gauge("barque_wal_current_file_bytes", "Size of the file that is written"),
    "max_file_size": gauge("barque_wal_file_bytes_max", "Size at which the next file begins"),
}
SEGMENT_WRITER: Final[Mapping[str, Metric]] = {
    "mem_tables": counter("barque_segment_writer_mem_tables", "Flushes of one member's entries to segments"),
    "segments": counter("barque_segment_writer_segments", "Segment files written"),
    "entries": counter("barque_segment_writer_entries", "Entries moved to segments"),
    "bytes_written": counter("barque_segment_writer_written_bytes", "Bytes written to segments"),
    "failures": counter("barque_segment_writer_failures", "Flushes and compactions that have failed"),
    "closed_files": gauge("barque_segment_writer_closed_files", "Log files that wait for their segments"),
}
STORAGE: Final[Mapping[str, Metric]] = {
    "memory_bytes": gauge("barque_entries_memory_bytes", "Entries in memory, of all members"),
    "segment_bytes": gauge("barque_segments_bytes", "Size of all segment files"),
    "open_segments": gauge("barque_segments_open", "Segment files that are open"),
    "size_bytes": gauge("barque_wal_bytes", "Bytes of all records in the files of the write-ahead log"),
    "longest_sync_seconds": gauge("barque_wal_longest_sync_seconds", "The longest write with its sync"),
    "read_cache_bytes": gauge("barque_read_cache_bytes", "What was read for members that lag, and is kept"),
    "read_cache_hits": counter("barque_read_cache_hits", "Batches that were found there"),
    "disk_free_bytes": gauge("barque_disk_free_bytes", "Free space at the last look"),
    "disk_free_min_bytes": gauge("barque_disk_free_min_bytes", "Below it new commands are refused"),
    "disk_full": gauge("barque_disk_full", "1 while new commands are refused for want of space"),
    "disk_critical": gauge("barque_disk_critical", "1 while followers take no entries for want of space"),
}
WAL_FAILED: Final = gauge("barque_wal_failed", "1 while the write-ahead log cannot be written")
META: Final[Mapping[str, Metric]] = {
    "syncs": counter("barque_meta_syncs", "Syncs of terms and votes"),
    "rewrites": counter("barque_meta_rewrites", "How often their file was replaced"),
    "size_bytes": gauge("barque_meta_bytes", "Size of their file"),
    "failed": gauge("barque_meta_failed", "1 while terms and votes cannot be written"),
}
TRANSPORT: Final[Mapping[str, Metric]] = {
    name: counter(f"barque_transport_{name}", text)
    for name, text in {
        "bytes_received": "Bytes received from nodes and clients",
        "bytes_sent": "Bytes sent to nodes and clients",
        "connects": "How often a link to another node came up",
        "dropped_sends": "Messages to nodes that were not sent",
        "forbidden_messages": "Requests that their client may not make",
        "forged_messages": "Messages that claimed to come from another node, dropped",
        "frames_received": "Frames received",
        "frames_sent": "Frames sent",
        "handshakes_refused": "Connections with a wrong secret, certificate, name or version",
        "malformed_frames": "Connections ended for bytes that no correct peer sends",
        "messages_received": "Messages received",
        "messages_sent": "Messages sent",
        "oversize_messages": "Messages too large to be sent",
        "refused_frames": "Connections ended since large frames of clients held too much memory",
        "slow_clients": "Clients cut off since they did not read",
        "unauthenticated_refused": "Connections closed since too many waited for their handshake",
        "unencodable_messages": "Messages that could not be encoded",
    }.items()
}
PROCESSES: Final[Mapping[str, Metric]] = {
    "alive": gauge("barque_processes", "Processes here that machines can send messages to"),
    "dropped_messages": counter(
        "barque_process_messages_dropped", "Messages of machines whose receivers were gone, or too slow"
    ),
}
PEER_CONNECTED: Final = gauge("barque_peer_connected", "1 if the link to another node is up")
PEER_QUEUED: Final = gauge("barque_peer_queued_bytes", "Bytes that wait for another node")
PEER_DROPPED: Final = counter("barque_peer_dropped", "Messages to another node that found no room or no link")
PEER_UP: Final = gauge("barque_peer_up", "1 if the failure detector takes another node for up")
