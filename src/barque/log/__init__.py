"""The log layer: entries and votes on disk, and nothing else.

One write-ahead log serves all servers of a system: whatever they append in one turn of the
loop becomes one vectored write and one sync. A memtable per server answers all reads. The
meta store keeps (term, vote) as one durable record per server.

It may import `barque.core.entries`, `core.messages` and `core.log_contract`, `barque.types`
and `barque.errors`; nothing above them.

Read in this order: `disk` (the seam to the operating system), `wal_format` beside
docs/formats/wal.md, `wal_files` (which files exist, and how one follows another), `wal`
(group commit, failure, reopening), `wal_writer` (where the sync runs), `wal_recovery` (what
is kept, dropped and refused), `memtable`, `log` (the contract of the core), `meta_format`
and `meta`, `storage` (what the runtime uses), `dump` (for people).

It never decides anything about Raft, never acknowledges what is not on disk, never retries
a failed sync as if nothing had happened, and never takes absence for deletion.
"""
