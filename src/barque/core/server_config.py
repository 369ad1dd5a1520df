"""What a server is told once, when it starts (CFG-01, CFG-04)."""

from typing import Any

import msgspec

from barque.core.packing import Packing
from barque.errors import ConfigurationError
from barque.machine.machine import Machine
from barque.types import NOWHERE, IndexTerm, MemberRecord, Membership, ServerId, Uid


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration of one server (CFG-01, CFG-04). Times in milliseconds."""

    id: ServerId
    uid: Uid
    cluster_name: str
    initial_members: tuple[ServerId, ...]
    machine: Machine[Any]
    machine_args: dict[str, Any] = {}
    cluster_id: str = ""
    """Identifies this cluster. A later cluster of the same name has another id."""
    membership: Membership = Membership.VOTER
    """What this server may do until a configuration in its log says so."""
    initial_uids: dict[ServerId, Uid] = {}
    """The uids of initial members, as far as they are known."""
    min_vote_position: IndexTerm = NOWHERE
    """The commit position when this server joined. It votes for no log that ends before it."""
    machine_upgrade_strategy: str = "all"
    """When a leader moves to a new machine version: once `all` members have it, or at once (`quorum`)."""
    initial_machine_version: int = 0
    """The version that a new cluster starts with, if the machine supports it (VER-06)."""
    skipped: frozenset[int] = frozenset()
    """Entries that the machine is not given, on any member: operators have agreed on it (LIFE-01)."""
    max_pipeline_count: int = 16_384
    """Entries in flight to one peer."""
    max_pipeline_bytes: int = 4 * 1024 * 1024  # half of what a link holds; one RPC may go beyond
    max_append_entries_rpc_batch_size: int = 4_096
    """Entries in one RPC. Ra's 128 counts single entries; ours travel as whole batches."""
    max_append_entries_rpc_bytes: int = 1_048_576
    low_priority_commands_flush_size: int = 16_384
    """Commands appended at a time, or `max_pipeline_bytes`. Ra's 16 counts single entries, as above."""
    apply_entries_max: int = 4_096
    """Entries applied in one step. The rest of a long commit comes in later turns."""
    await_condition_timeout_ms: int = 30_000
    transfer_timeout_ms: int = 1_000
    """How long a leader that hands over serves nobody (§3.10), about an election; then it leads on."""
    catch_up_timeout_ms: int = 1_000
    """How long a follower waits for entries that it asked for, before it asks again."""
    wal_down_timeout_ms: int = 5_000
    receive_snapshot_timeout_ms: int = 30_000
    snapshot_silent_ticks_max: int = 30
    """After so many ticks without an answer the sending of a snapshot is given up. Each repeats the chunk."""
    snapshot_backoff_ms: int = 5_000
    """The pause before a snapshot is sent again. It doubles each time, up to a minute (SEND-07)."""
    snapshot_packing: Packing = Packing.NONE
    """How the chunks of snapshots are compressed for members that can unpack them."""

    def initial_cluster(self) -> list[MemberRecord]:
        """The members that the configuration names, and this server."""
        ids = {*self.initial_members, self.id}
        return [
            MemberRecord(
                member,
                self.uid if member == self.id else self.initial_uids.get(member),
                self.membership if member == self.id else Membership.VOTER,
            )
            for member in sorted(ids)
        ]

    def check(self) -> None:
        """Raise `ConfigurationError` for settings that cannot work."""
        if self.machine_upgrade_strategy not in ("all", "quorum"):
            raise ConfigurationError(
                f"machine_upgrade_strategy is {self.machine_upgrade_strategy!r}; it must be all or quorum"
            )
        if self.machine_upgrade_strategy == "all" and self.machine.version < self.initial_machine_version:
            raise ConfigurationError(
                f"initial_machine_version is {self.initial_machine_version}, but the machine of "
                f"{self.id} has version {self.machine.version} (invalid_initial_machine_version)"
            )
