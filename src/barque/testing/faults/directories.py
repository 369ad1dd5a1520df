"""Data directories in the wrong hands: two nodes' disks are swapped, or one is copied to another node.

A node must refuse to start on another node's directory, and change nothing in it. After a while an operator
gives each node its own directory back; then nothing may be lost.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from barque.errors import BarqueError, ConfigurationError, StorageError
from barque.testing.checkers.safety import Violation
from barque.testing.sim.disk import SimDisk
from barque.testing.sim.host import DATA, Host

if TYPE_CHECKING:
    from barque.testing.faults.nemesis import Nemesis

_RESTART_S = 0.5
"""A crashed node mostly tries to start within this time."""


class LentDisk:
    """Another node's directory in the place of a host's own one."""

    def __init__(self, host: Host, disk: SimDisk, owner: str) -> None:
        self._own = host.disk
        self._lent = disk
        self._owner = owner
        self._content = disk.content(DATA)
        host.disk = disk

    def give_back(self, host: Host) -> None:
        """Put the host's own disk back into its place."""
        host.disk = self._own

    def judge(self, name: str, error: BarqueError | None) -> Violation | None:
        """Judge a start on this disk: None for `error` means that the node has started."""
        shown = (repr(error),)
        if isinstance(error, StorageError) and "another process uses" in str(error):
            return None  # its owner runs on it: the lock came first, and what changes is the owner's work
        failing = isinstance(error, StorageError) and self._lent.fault is not None  # another fault came first
        named = isinstance(error, ConfigurationError) and f"'{self._owner}'" in str(error)
        if not failing and not named:
            text = f"{name} has the directory of {self._owner}, and does not refuse it by that name"
            return Violation("a directory has one node (D1)", text, shown)
        if self._lent.content(DATA) != self._content:
            text = f"{name} has changed files in the directory of {self._owner}"
            return Violation("a refusal changes nothing (D1)", text, shown)
        return None


def swapped_disks(nemesis: "Nemesis") -> None:
    """Two nodes die, and start with each other's directories for a while."""
    hosts = [host for host in nemesis.sim.hosts if _is_fit(host)]
    if len(hosts) >= 2:
        one, other = nemesis.rng.sample(hosts, 2)
        for host in (one, other):
            host.crash(power=True)
        nemesis.count("swapped_disks", f"{one.name}-{other.name}")
        disks = one.disk, other.disk
        one.lent, other.lent = LentDisk(one, disks[1], other.name), LentDisk(other, disks[0], one.name)
        _give_back_later(nemesis, one, other)


def copied_disk(nemesis: "Nemesis") -> None:
    """A node dies, and starts with a copy of another node's directory for a while."""
    hosts = [host for host in nemesis.sim.hosts if _is_fit(host)]
    if len(hosts) >= 2:
        host, other = nemesis.rng.sample(hosts, 2)
        host.crash(power=True)
        nemesis.count("copied_disk", f"{other.name} to {host.name}")
        host.lent = LentDisk(host, other.disk.survivor(), other.name)
        _give_back_later(nemesis, host)


def _is_fit(host: Host) -> bool:
    """Whether it runs and has a directory of its own, and nothing else is wrong with its disk."""
    sound = host.lent is None and host.bit_rot is None and host.latent_rot is None
    return sound and host.up and bool(host.uids) and host.disk.fault is None and host.disk.space is None


def _give_back_later(nemesis: "Nemesis", *hosts: Host) -> None:
    """Give these hosts their own disks back, unless they got them before: a later swap has its own timer."""
    lent = [(host, host.lent) for host in hosts]

    def give_back() -> None:
        for host, disk in lent:
            if host.lent is disk:
                host.take_back()

    nemesis.later(give_back, _RESTART_S)


DIRECTORY_FAULTS: dict[str, Callable[["Nemesis"], None]] = {
    "swapped_disks": swapped_disks,
    "copied_disk": copied_disk,
}
"""By name. A fault that finds no victim is not counted."""
