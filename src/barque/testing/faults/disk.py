"""Disks that fail for a while: reads at a start, writes, syncs, and files that cannot be opened."""

import errno
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from barque.testing.faults.bit_rot import rot_snapshot
from barque.testing.sim.host import DATA, Host

if TYPE_CHECKING:
    from barque.testing.faults.nemesis import Nemesis

_RATES = (0.05, 0.3, 1.0)
_RESTART_S = 0.5
"""A crashed node mostly tries to start within this time."""
_ROT_S = 1.0
"""Long enough for a member to need the snapshot, and to refuse it."""


def sync_error(nemesis: "Nemesis") -> None:
    """Some or all syncs fail with EIO for a while, and the writes that they should have synced are lost."""
    _fail(nemesis, "sync_error", nemesis.some_host(), ("datasync", "fsync_dir"), errno.EIO)


def write_error(nemesis: "Nemesis") -> None:
    """Writes fail with EIO for a while; a part of each may be there."""
    _fail(nemesis, "write_error", nemesis.some_host(), ("pwritev", "truncate"), errno.EIO)


def open_error(nemesis: "Nemesis") -> None:
    """No file can be opened or created (EMFILE), in half of the cases while the node starts."""
    host = nemesis.some_host()
    if nemesis.rng.random() < 0.5:
        host.crash(power=False)
    _fail(nemesis, "open_error", host, ("open", "create", "read_file"), errno.EMFILE)


def read_error(nemesis: "Nemesis") -> None:
    """A node dies and cannot read its files: it must refuse to start, and start when it can read again."""
    host = nemesis.some_host()
    if host.up:
        host.crash(power=nemesis.rng.random() < 0.5)
        _fail(nemesis, "read_error", host, ("read_file", "pread"), errno.EIO, _RESTART_S)


def _fail(
    nemesis: "Nemesis", name: str, host: Host, operations: tuple[str, ...], code: int, at_least_s: float = 0.0
) -> None:
    rate = nemesis.rng.choice(_RATES)

    def fault(operation: str, path: str) -> OSError | None:
        if operation in operations and nemesis.rng.random() < rate:
            nemesis.fired[f"{name}: failed"] += 1
            return OSError(code, os.strerror(code), path)
        return None

    def end() -> None:
        if disk.fault is fault:  # not a later fault
            disk.fault = None

    disk = host.disk
    nemesis.count(name, host.name)
    disk.fault = fault
    nemesis.later(end, at_least_s)


def disk_full(nemesis: "Nemesis") -> None:
    """The disk has little space left, for a while."""
    host = nemesis.some_host()
    nemesis.count("disk_full", host.name)
    host.disk.space = nemesis.rng.choice((0, 100, 1_000))
    nemesis.later(partial(setattr, host.disk, "space", None))


def slow_disk(nemesis: "Nemesis") -> None:
    """Each sync takes long, for a while."""
    host = nemesis.some_host()
    disk = host.process_disk
    if disk is not None:
        nemesis.count("slow_disk", host.name)
        disk.sync_seconds = (0.0, nemesis.rng.choice((0.01, 0.1, 0.5)))
        nemesis.later(partial(setattr, disk, "sync_seconds", nemesis.scenario.sync_s))


def hung_sync(nemesis: "Nemesis") -> None:
    """The next sync takes seconds, and the node stands still meanwhile."""
    host = nemesis.some_host()
    if host.process_disk is not None and host.up:
        nemesis.count("hung_sync", host.name)
        host.process_disk.hang_s = nemesis.rng.choice((0.5, 2.0, 8.0))


def bit_rot(nemesis: "Nemesis") -> None:
    """A node loses power, and bytes on its disk change while it is down."""
    host = nemesis.some_host()
    if host.up:
        host.crash(power=True)
        if host.rot_bits():
            assert host.bit_rot is not None
            nemesis.count("bit_rot", f"{host.name} {host.bit_rot.path}")


def snapshot_rot(nemesis: "Nemesis") -> None:
    """A byte of a snapshot rots while its node runs; later an operator restores it, if it is still there."""
    host = nemesis.some_host()
    if not host.up or host.lent is not None or host.bit_rot is not None or host.latent_rot is not None:
        return
    with host.looked_at():
        host.latent_rot = rot_snapshot(host.disk, DATA, list(host.uids.values()), nemesis.rng)
    if host.latent_rot is not None:
        nemesis.count("snapshot_rot", f"{host.name} {host.latent_rot.path}")
        nemesis.later(host.mend_rot, _ROT_S)


DISK_FAULTS: dict[str, Callable[["Nemesis"], None]] = {
    "sync_error": sync_error,
    "write_error": write_error,
    "open_error": open_error,
    "read_error": read_error,
    "disk_full": disk_full,
    "slow_disk": slow_disk,
    "hung_sync": hung_sync,
    "bit_rot": bit_rot,
    "snapshot_rot": snapshot_rot,
}
"""By name. A fault that cannot happen now is not counted."""
