"""Compare what the log and the meta file hold with the records of servers, before anything starts.

Directories of format 1, which recorded no owner, are checked by their contents to be this node's.
"""

from barque.core.entries import EntryKind, decode_cluster, kind_of
from barque.errors import Damaged
from barque.log.identity import IDENTITY, wrong_owner
from barque.log.storage import Storage
from barque.runtime.directory import Directory
from barque.runtime.server_record import ServerRecord
from barque.types import Index

_ALL = 1 << 62


def check_orphans(storage: Storage, directory: Directory) -> None:
    """Refuse data of servers that have no record: absence is never deletion. Raises `Damaged`."""
    orphans = storage.recovered_uids() - directory.uids()
    if orphans:
        paths = ", ".join(f"{directory.data_dir}/servers/{uid}/config" for uid in sorted(orphans)[:20])
        raise Damaged(
            f"{paths}: missing, although the log or the meta file holds data of these servers; restore "
            "the files from a copy of this directory"
        )


def check_contents(storage: Storage, directory: Directory) -> None:
    """Refuse a directory whose servers say that they live on another node.

    Raises `ConfigurationError`, and `Damaged` if deletions are recorded in the meta file only.
    """
    data_dir, owner = directory.data_dir, directory.owner
    for record in directory.records.values():
        nodes = _nodes_of(record, storage)
        if owner.node not in nodes:
            home = " or ".join(repr(node) for node in sorted(nodes))
            raise wrong_owner(f"{data_dir}/{IDENTITY}", f"node {home} ({record.name!r} lives there)", owner)
    forgotten = storage.meta.tombstones - directory.buried()
    if forgotten and not directory.buried():
        raise Damaged(
            f"{data_dir}/servers/tombstones: missing, and {', '.join(sorted(forgotten)[:20])} were deleted; "
            "restore the file from a copy of this directory"
        )


def _nodes_of(record: ServerRecord, storage: Storage) -> set[str]:
    """The nodes that this server may live on: those that are said to have its uid, or else all members'."""
    known = {str(member): member.node for member in record.initial_members}
    named = {
        known[member] for member, uid in record.initial_uids.items() if uid == record.uid and member in known
    }
    if not named and record.uid in storage.recovered_uids():
        log = storage.log(record.uid)
        for batch in log.read(Index(1), log.last_index_term().index, _ALL, _ALL):
            if kind_of(batch.body) is EntryKind.CLUSTER_CHANGE:
                named |= {member.id.node for member in decode_cluster(batch.body) if member.uid == record.uid}
    return named or {member.node for member in record.initial_members if member.name == record.name}
