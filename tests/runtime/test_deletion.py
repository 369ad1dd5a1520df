"""Deleting servers for good, and dying in the middle of it (runtime/system.py, runtime/directory.py)."""

import errno
import random
from collections.abc import Callable
from typing import Any

import pytest
from tests.nodes import Adder

from barque.config import LogConfig, SnapshotsConfig, TimeConfig
from barque.core.entries import encode_body
from barque.core.messages import Commands, ElectionTimeout, RemoteMessage
from barque.core.state import RaftState
from barque.errors import ConfigurationError, StorageError
from barque.log.identity import Owner
from barque.runtime.directory import Directory
from barque.runtime.server_process import ServerProcess
from barque.runtime.server_table import Ending, ServerTable
from barque.runtime.system import System
from barque.runtime.timers import Timers
from barque.testing.sim.disk import SimDisk
from barque.types import ClientRef, Index, ServerId

DATA = "/data"
Fault = Callable[[str, str], Any]


class PowerLoss(BaseException):
    """The machine is off: no code runs any more, and no `except` of ours may catch it."""


class World:
    """A system on a simulated disk, its clock, and the environment that its servers speak to."""

    def __init__(self, disk: SimDisk) -> None:
        self.disk = disk
        self.gone: list[tuple[str, bool]] = []
        self.timers = Timers()
        self.servers = ServerTable(lambda: None)
        self.system = System(
            me=ClientRef("n1", 1),
            disk=disk,
            log=LogConfig(writer="inline", prefill=False),
            snapshots=SnapshotsConfig(),
            times=TimeConfig(),
            machines={"adder": Adder()},
            servers=self.servers,
            directory=Directory(disk, DATA, Owner("barque", "n1")),
            environment=self,
            timers=self.timers,
            clock=self,
            rng=random.Random(disk.boots),
            run_on_loop=lambda function: function(),
            changed=lambda: None,
            checked=True,
        )
        self.system.recover()

    def monotonic(self) -> float:
        return 1.0

    def wall_ms(self) -> int:
        return 1_000

    def send(self, to: ServerId, message: RemoteMessage, process: ServerProcess) -> bool:
        return True

    def server_deleted(self, process: ServerProcess, *, whole_cluster: bool) -> None:
        self.gone.append((process.server.id.name, whole_cluster))

    def nothing(self, *_: Any) -> None:
        """What is of no interest here."""

    answer = reject = send_event = leadership_changed = leader_established = nothing
    replicate_soon = flush_commands_soon = apply_soon = server_stopped = wake = nothing

    def turn(self) -> None:
        """Until nothing is left to do."""
        while self.system.sync_meta() or self.system.storage.pending:
            self.system.flush()

    def make(self, name: str, cluster_id: str | None = None) -> ServerProcess:
        """A cluster of one, which leads and has counted to 3."""
        members = (ServerId(name, "n1"),)
        cluster_id = cluster_id or f"R{name}"
        record = self.system.plan(name, name, "adder", {}, members, cluster_id=cluster_id)
        process = self.system.create(record)
        process.handle(ElectionTimeout())
        self.turn()
        process.handle(Commands(2, encode_body([b"\x01", b"\x02"])))
        self.turn()
        assert process.server.raft_state is RaftState.LEADER
        assert process.server.machine_state == 3
        return process

    def files(self) -> list[str]:
        """What lies below `servers/`."""
        root = f"{DATA}/servers"
        return self.disk.listdir(root) if self.disk.exists(root) else []


def new_disk(seed: int = 0) -> SimDisk:
    """An empty disk."""
    return SimDisk(random.Random(seed))


def dies_at(step: int) -> Fault:
    """Lose power at the start of this disk operation, counted from 0."""
    left = step

    def fault(_operation: str, _path: str) -> None:
        nonlocal left
        if left == 0:
            raise PowerLoss
        left -= 1

    return fault


def test_a_deleted_server_leaves_a_tombstone_and_nothing_else() -> None:
    """Data, record and directory are gone, before and after a restart; its neighbour goes on."""
    world = World(new_disk())
    doomed, neighbour = world.make("doomed"), world.make("other")
    uid = doomed.server.cfg.uid
    world.system.delete(doomed, "a test", whole_cluster=True)
    assert world.gone == [("doomed", True)]
    assert world.files() == [neighbour.server.cfg.uid, "tombstones"]
    assert not any(key[0] is doomed for key in world.timers._timers if isinstance(key, tuple))
    neighbour.handle(Commands(1, encode_body([b"\x01"])))
    world.turn()
    assert neighbour.server.machine_state == 4
    world.disk.crash()
    world = World(world.disk)
    assert set(world.system.processes) == {"other"}
    assert world.system.processes["other"].server.log.last_index_term().index == 4
    with pytest.raises(StorageError, match="never used again"):
        world.system.storage.log(uid)


def check_after_crash(disk: SimDisk, uid: str, step: object) -> None:
    """Either it is wholly there and works, or it is wholly gone."""
    world = World(disk)
    buried = world.system.directory.deleted_cluster("Rdoomed")
    if buried is None:
        process = world.system.processes["doomed"]
        process.handle(ElectionTimeout())
        world.turn()
        assert process.server.machine_state == 3, step
    else:
        assert set(world.system.processes) == {"other"}, step
        assert world.system.storage.meta.is_deleted(uid), step  # type: ignore[arg-type]
        assert uid not in world.files(), step
        assert not world.system.directory.unfinished, step
    assert world.system.processes["other"].server.log.last_index_term().index == Index(3)


@pytest.mark.parametrize("seed", range(4))
def test_a_crash_at_any_step_of_a_deletion_is_completed(seed: int) -> None:
    """Power fails between any two disk operations; the next start has the server, or finishes it off."""
    outcomes = set()
    for step in range(500):
        disk = new_disk(seed)
        world = World(disk)
        doomed = world.make("doomed")
        world.make("other")
        uid = doomed.server.cfg.uid
        disk.fault = dies_at(step)
        try:
            world.system.delete(doomed, "a test", whole_cluster=True)
        except PowerLoss:
            pass
        else:
            break
        finally:
            disk.fault = None
        disk.crash()
        check_after_crash(disk, uid, step)
        outcomes.add(World(_restarted(disk)).system.directory.deleted_cluster("Rdoomed") is None)
    assert step > 8
    assert outcomes == {True, False}


def _restarted(disk: SimDisk) -> SimDisk:
    disk.crash()
    return disk


def test_a_crash_while_a_crash_is_cleaned_up_is_completed_too() -> None:
    """The start that finishes a deletion may die at any step as well."""
    for step in range(500):
        disk = new_disk(step)
        world = World(disk)
        doomed = world.make("doomed")
        world.make("other")
        uid = doomed.server.cfg.uid
        disk.fault = lambda operation, path: _raise() if operation == "rmdir" else None
        with pytest.raises(PowerLoss):
            world.system.delete(doomed, "a test", whole_cluster=True)
        disk.fault = None
        disk.crash()
        disk.fault = dies_at(step)
        try:
            World(disk)
        except PowerLoss:
            pass
        else:
            break
        finally:
            disk.fault = None
        disk.crash()
        check_after_crash(disk, uid, step)
    assert step > 8


def _raise() -> None:
    raise PowerLoss


def test_a_full_disk_delays_a_deletion_and_nothing_else() -> None:
    """The server is down at once; each tick tries again; until then its name is taken."""
    world = World(new_disk())
    doomed = world.make("doomed")
    world.disk.fault = lambda operation, path: OSError(errno.ENOSPC, "full") if "tombstones" in path else None
    world.system.delete(doomed, "a test", whole_cluster=True)
    assert "doomed" not in world.system.processes
    assert "tried again" in str(world.system.failure)
    with pytest.raises(ConfigurationError, match="exists already"):
        world.make("doomed", "R2")
    world.disk.fault = None
    world.system.tick()
    assert world.files() == ["tombstones"]
    world.make("doomed", "R2")


def test_what_was_deleted_cannot_be_made_again() -> None:
    """A cluster's id is never used again; its name may be, and finds nothing of the old one."""
    world = World(new_disk())
    world.system.delete(world.make("sum", "R1"), "a test", whole_cluster=True)
    with pytest.raises(ConfigurationError, match="was deleted"):
        world.make("sum", "R1")
    again = world.make("sum", "R2")
    assert again.server.machine_state == 3
    assert again.server.current_term == 1


def test_a_removed_member_may_come_back_as_another() -> None:
    """A member's tombstone holds for its uid, and not for its cluster."""
    world = World(new_disk())
    first = world.make("sum", "R1")
    world.system.delete(first, "a test", whole_cluster=False)
    assert world.gone == [("sum", False)]
    assert world.system.directory.deleted_cluster("R1") is None
    second = world.make("sum", "R1")
    assert second.server.cfg.uid != first.server.cfg.uid


@pytest.mark.parametrize("state", [RaftState.TERMINATING_LEADER, RaftState.TERMINATING_FOLLOWER])
def test_a_server_that_is_about_to_end_makes_room_for_its_successor(state: RaftState) -> None:
    """A cluster may be created again while the old one's last server still says goodbye."""
    world = World(new_disk())
    old = world.make("sum", "R1")
    old.server.raft_state = state
    new = world.make("sum", "R2")
    assert world.system.processes["sum"] is new
    assert world.gone == [("sum", True)]
    assert world.system.directory.deleted_cluster("R1") is not None


def test_a_server_may_finish_itself_from_inside() -> None:
    """`finish` only notes it: the deletion comes when the server's own effects are through."""
    world = World(new_disk())
    process = world.make("sum")
    world.servers.finish(process, Ending("it left"))
    assert process.state == "stopped"
    assert "sum" in world.system.processes
    process.handle(Commands(1, encode_body([b"\x01"])))
    assert process.server.machine_state == 3
    world.system.reap_finished()
    assert "sum" not in world.system.processes
    assert world.system.directory.last_tombstone("Rsum") is not None


def test_a_server_may_stop_without_being_deleted() -> None:
    """It keeps its files, and is there again after a restart."""
    world = World(new_disk())
    process = world.make("sum")
    world.servers.finish(process, Ending("it stopped", delete=False))
    world.system.reap_finished()
    assert process.state == "stopped"
    world.disk.crash()
    assert World(world.disk).system.processes["sum"].state == "follower"


def test_all_members_here_of_a_deleted_cluster_go() -> None:
    """Two members of one cluster on one node: the tombstone of one keeps the other from starting."""
    world = World(new_disk())
    one, two = world.make("one", "R1"), world.make("two", "R1")
    world.system.delete(one, "a test", whole_cluster=True)
    assert set(world.system.processes) == {"two"}
    world.disk.crash()
    world = World(world.disk)
    assert not world.system.processes
    assert world.system.storage.meta.is_deleted(two.server.cfg.uid)
    assert world.files() == ["tombstones"]
