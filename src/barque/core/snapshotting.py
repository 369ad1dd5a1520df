"""The place of snapshots (§5). Logs are kept whole until they come; nothing sends one yet."""

from barque.core.messages import InstallSnapshotResult, InstallSnapshotRpc
from barque.core.server import Server, Transition


def ignore_snapshot(server: Server, message: InstallSnapshotRpc | InstallSnapshotResult) -> Transition:
    """A member of a newer release may speak of snapshots; what we cannot take, we do not answer.

    Silence is safe: the sender keeps its log until somebody has acknowledged the snapshot.
    """
    return server.stay()
