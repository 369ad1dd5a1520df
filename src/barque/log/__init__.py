"""The log layer: entries and votes on disk, and nothing else.

One write-ahead log serves all servers of a system: whatever they append in one turn of the
loop becomes one vectored write and one sync. When a file of it is full, segments take over its
entries. A snapshot stands for a log's beginning. The meta store keeps (term, vote) as one record.

It may import `barque.core.entries`, `core.messages` and `core.log_contract`, `barque.types`
and `barque.errors`; nothing above them.

Read in this order: `disk` (the seam to the operating system); `wal_format` beside
docs/formats/wal.md, `wal_files`, `wal` (group commit, failure), `wal_writer`, `wal_recovery`;
`memtable`, `log` (the contract of the core); `segment_format`, `segment`, `segment_set` (which file
counts), `flush`, `segment_writer`; `reconcile` and `recovery`; the `snapshot` modules and
`background`; `meta_format`, `meta`; `storage` (what the runtime uses).

It never decides anything about Raft, never acknowledges what is not on disk, never retries
a failed sync as if nothing had happened, and never takes absence for deletion.
"""
