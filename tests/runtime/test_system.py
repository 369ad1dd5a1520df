"""One data directory: creating servers, syncing votes, what the disk reports (runtime/system.py)."""

import pytest
from tests.runtime.test_deletion import World, new_disk

from barque.core.messages import ElectionTimeout
from barque.core.state import RaftState
from barque.errors import ConfigurationError, StorageError
from barque.runtime.system import System
from barque.types import ServerId


def create(system: System, name: str = "sum", machine: str = "adder", **arguments: object) -> None:
    """A cluster of one."""
    members = (ServerId(name, "n1"),)
    system.create(system.plan(name, name, machine, arguments, members, cluster_id=f"R{name}"))


def test_a_vote_is_released_by_the_sync_of_the_meta_store() -> None:
    """Until then nothing that follows it is performed; a sync that fails releases nothing."""
    world = World(new_disk())
    create(world.system)
    process = world.system.processes["sum"]
    process.handle(ElectionTimeout())
    assert list(world.system.awaiting_sync) == [process]
    assert process.held is not None
    real = world.system.storage.sync_meta

    def fail() -> None:
        raise StorageError("a test")

    world.system.storage.sync_meta = fail  # type: ignore[method-assign]
    assert not world.system.sync_meta()
    assert list(world.system.awaiting_sync) == [process]
    assert world.system.failure is not None
    world.system.storage.sync_meta = real  # type: ignore[method-assign]
    world.turn()
    assert (process.server.raft_state, world.system.failure) == (RaftState.LEADER, None)
    assert not world.system.sync_meta()


def test_what_cannot_work_is_refused_before_anything_is_written() -> None:
    """An unknown machine, arguments that it does not take, a name that is taken."""
    world = World(new_disk())
    with pytest.raises(ConfigurationError, match="'nosuch' is not among this node's"):
        create(world.system, machine="nosuch")
    with pytest.raises(ConfigurationError, match="cannot start with arguments"):
        create(world.system, start="many")
    assert world.files() == ["tombstones"]
    create(world.system)
    with pytest.raises(ConfigurationError, match="exists already"):
        create(world.system)


def test_servers_come_back_with_what_was_durable() -> None:
    """Term, vote, log and machine, under the same incarnation."""
    world = World(new_disk())
    process = world.make("sum")
    term, uid = process.server.current_term, process.uid
    world.system.close()
    again = World(world.disk)
    found = again.system.processes["sum"]
    assert (found.uid, found.server.current_term, found.state) == (uid, term, "follower")
    assert again.servers.by_uid == {uid: found}
    found.handle(ElectionTimeout())
    again.turn()
    assert found.server.machine_state == 3


def test_only_servers_that_did_something_are_ticked() -> None:
    """A thousand idle servers cost a tick nothing."""
    world = World(new_disk())
    process = world.make("sum")
    assert process in world.system._active
    world.turn()
    world.system.tick()
    assert process not in world.system._active
