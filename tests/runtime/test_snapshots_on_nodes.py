"""Snapshots, checkpoints and segments on whole nodes: made, sent, installed, and started from."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.nodes import Nodes, until

import barque
from barque.core.messages import InstallSnapshotRpc
from barque.core.state import PeerStatus, RaftState, Server
from barque.log.snapshots import SnapshotStore
from barque.machine.effects import Checkpoint, ReleaseCursor
from barque.machine.machine import Builtin
from barque.testing.checkers.probes import watched
from barque.transport.wire import Envelope
from barque.types import Index, IndexTerm


class Shelf(barque.Machine[dict[str, Any]]):
    """Keeps what it is given, in place. Some commands ask for snapshots; `keep` lets its entry survive."""

    def __init__(self) -> None:
        self.applied: list[Any] = []
        self.installed: list[tuple[int, int]] = []
        self.captured = 0

    def init(self, args: dict[str, Any]) -> dict[str, Any]:
        """An empty shelf."""
        return {"items": [], "kept": [], "times": []}

    def apply(self, meta: barque.CommandMeta, command: Any, state: dict[str, Any]) -> Any:
        """Put it on the shelf."""
        if isinstance(command, Builtin):
            return state, None
        self.applied.append(command)
        state["items"].append(command if len(str(command)) < 50 else len(str(command)))
        state["times"].append(meta.system_time_ms)
        match command:
            case "snap":
                return state, meta.index, [ReleaseCursor(meta.index, state)]
            case "check":
                return state, meta.index, [Checkpoint(meta.index, state)]
            case "promote":
                return state, meta.index, [ReleaseCursor(meta.index, promote=True)]
            case "written":
                return state, meta.index, [ReleaseCursor(meta.index, state, written=meta.index)]
            case "quiet":
                return state, meta.index, [ReleaseCursor(meta.index, state, no_snapshot_sends=True)]
            case "keep":
                state["kept"].append(meta.index)
        return state, meta.index

    def query(self, query: Any, state: dict[str, Any]) -> Any:
        """Everything."""
        return state

    def capture(self, state: dict[str, Any]) -> Any:
        """Count the captures: a snapshot that is not due costs none."""
        self.captured += 1
        return super().capture(state)

    def live_indexes(self, state: dict[str, Any]) -> Sequence[Index]:
        """The entries that it asked to keep."""
        return list(state["kept"])

    def snapshot_installed(
        self,
        position: IndexTerm,
        state: dict[str, Any],
        old_position: IndexTerm,
        old_state: dict[str, Any],
    ) -> Any:
        """Note it."""
        self.installed.append((position.index, len(old_state["items"])))
        return ()


OFTEN = barque.SnapshotsConfig(
    min_interval=1, checkpoint_min_interval=1, chunk_size_bytes=200, backoff_ms=50, recovery_min_interval=1
)
SMALL = barque.LogConfig(wal_max_size_bytes=16_384, segment_max_entries=8, prefill=False)


@contextlib.asynccontextmanager
async def shelves(directory: Path, count: int = 3, **settings: Any) -> AsyncIterator["Shelves"]:
    """Nodes whose machine is a `Shelf` of their own, with a cluster `shelf`."""
    some = Shelves(directory, count, **{"snapshots": OFTEN, "log": SMALL, **settings})
    for name in some.addresses:
        await some.begin(name)
    async with some.client() as client:
        some.at = client
        await client.start_cluster("shelf", "shelf")
        try:
            yield some
        finally:
            await some.stop()


class Shelves(Nodes):
    """Nodes with a shelf each."""

    at: barque.Client

    async def begin(self, name: str) -> None:
        """Start one node with a new machine object."""
        self.machines: dict[str, Shelf] = getattr(self, "machines", {})
        self.machines[name] = Shelf()
        await self.start(name, machines={"shelf": self.machines[name]})

    def server(self, name: str) -> Server:
        """The member on this node."""
        return self.running[name].system.processes["shelf"].server

    def snapshot(self, name: str) -> int:
        """Where the member's snapshot ends; 0 for none."""
        return self.server(name).log.snapshot_index_term().index

    async def put(self, *commands: Any) -> list[int]:
        """Commit these, one after the other; their indexes."""
        return [int(await self.at.process_command("shelf", command)) for command in commands]

    async def snapshot_at(self, index: int, *names: str) -> None:
        """Wait until these members, or all, have a snapshot at this entry or a later one."""

        async def there() -> bool:
            return all(self.snapshot(name) >= index for name in names or self.running)

        await until(there, f"a snapshot at {index}")

    async def state(self, name: str) -> dict[str, Any]:
        """The machine's state on this node."""
        async with self.client(name) as client:
            state: dict[str, Any] = await client.local_query("shelf", None)
            return state

    async def snap(self) -> int:
        """Ask for snapshots until all members have one that covers everything so far; where this ends."""
        at = (await self.put("snap"))[0]

        async def there() -> bool:
            if all(self.snapshot(name) >= at for name in self.members()):
                return True
            await self.put("snap")  # the one before came while another was being written
            return False

        await until(there, f"a snapshot at {at}")
        return at

    def members(self) -> list[str]:
        """The nodes with a member."""
        return [name for name, node in self.running.items() if "shelf" in node.system.processes]

    async def forget(self, index: int) -> None:
        """Let the logs drop this entry: newer ones, and snapshots of them."""

        async def forgotten() -> bool:
            await self.put(*("x" * 3_000 for _ in range(20)))
            await self.snap()
            return all(self.server(name).log.first_index() > index for name in self.members())

        await until(forgotten, f"the logs to drop {index}")

    async def equal(self) -> None:
        """Wait until all members have applied everything, and compare their states."""
        at = (await self.put("last"))[0]

        async def there() -> bool:
            return all(self.server(name).last_applied >= at for name in self.running)

        await until(there, "everything everywhere")
        states = [self.server(name).machine_state for name in self.running]
        assert all(state == states[0] for state in states)


async def test_every_member_makes_its_own_snapshot_and_starts_from_it(tmp_path: Path) -> None:
    """SNAP-01 to SNAP-06, SNAP-09, EFF-14, CORE-12, LIFE-05: nothing that it covers is applied again."""
    async with shelves(tmp_path) as some:
        *_, at = await some.put("a", "b", "snap")
        await some.snapshot_at(at)
        await some.put("c")
        await some.equal()
        await some.stop("n2")
        recovery = tmp_path / "n2" / "servers"
        for folder in recovery.glob("*/recovery_checkpoint/*/*"):
            folder.unlink()  # only the snapshot is left
        await some.begin("n2")
        await some.equal()
        assert some.machines["n2"].applied == ["c", "last", "last"]
        assert some.snapshot("n2") == at
        assert list((tmp_path / "n2").glob("servers/*/snapshots/*"))


async def test_an_orderly_stop_keeps_the_state(tmp_path: Path) -> None:
    """CKPT-06 to CKPT-08: the next start applies nothing again; the log stays whole."""
    async with shelves(tmp_path) as some:
        await some.put("a", "b", "c")
        await some.equal()
        await some.stop("n3")
        await some.begin("n3")
        assert some.server("n3").last_applied > 3
        await some.equal()
        assert some.machines["n3"].applied == ["last"]
        assert some.snapshot("n3") == 0
        assert some.server("n3").log.first_index() == 1


async def test_a_member_that_lags_gets_a_snapshot_and_then_entries(tmp_path: Path) -> None:
    """SEND-01 to SEND-09, RECV-01 to RECV-08, MAC-11, CORE-08, REPL-08: chunk by chunk, once."""
    async with shelves(tmp_path) as some:
        (first,) = await some.put("a")
        await some.equal()
        await some.stop("n3")
        await some.forget(first + 2)
        await some.begin("n3")
        await some.equal()
        assert some.machines["n3"].installed
        assert "a" not in some.machines["n3"].applied
        sent = [
            p.counters.snapshots_sent
            for n in some.running.values()
            for p in n.system.servers.by_name.values()
        ]
        assert sum(sent) == 1
        await some.put("z")
        await some.equal()


async def test_a_new_member_gets_a_snapshot(tmp_path: Path) -> None:
    """MEMB-11, MEMB-17, SNAP-03: the members are those of the snapshot, with uids; then it votes."""
    async with shelves(tmp_path, 3) as some:
        (first,) = await some.put("a")
        await some.at.remove_member("shelf", "shelf@n3")

        async def ended() -> bool:
            return "n3" not in some.members()

        await until(ended, "the removed member to end")
        await some.forget(first)
        await some.at.add_member("shelf", "n3")
        await some.equal()
        assert some.machines["n3"].installed
        members = [sorted(map(str, some.server(name).cluster)) for name in some.running]
        assert members[0] == members[1] == members[2] == ["shelf@n1", "shelf@n2", "shelf@n3"]


async def test_checkpoints_are_kept_promoted_and_passed(tmp_path: Path) -> None:
    """CKPT-01, CKPT-02, CKPT-05, EFF-16, EFF-17: a checkpoint truncates nothing until it is promoted."""
    async with shelves(tmp_path, 1) as some:
        *_, at = await some.put("a", "check")
        folder = tmp_path / "n1" / "servers"

        async def kept() -> bool:
            return bool(list(folder.glob("*/checkpoints/*/snapshot")))

        await until(kept, "a checkpoint")
        assert some.snapshot("n1") == 0
        await some.put("b")

        async def promoted() -> bool:
            await some.put("promote")  # the checkpoint may be on the disk, and the member not know it yet
            return some.snapshot("n1") > 0

        await until(promoted, "a promotion")
        assert some.snapshot("n1") == at

        async def gone() -> bool:
            return not list(folder.glob("*/checkpoints/*/snapshot"))

        await until(gone, "the checkpoint to be a snapshot")
        await some.stop("n1")
        await some.begin("n1")
        await some.equal()


async def test_entries_that_a_machine_keeps_survive_and_travel(tmp_path: Path) -> None:
    """MAC-12, COMP-01, SEND-05, RECV-03: readable below the snapshot, after a restart and an install."""
    async with shelves(tmp_path) as some:
        (kept,) = await some.put("keep")
        await some.stop("n3")
        await some.forget(kept)
        await some.begin("n3")
        await some.equal()
        assert some.machines["n3"].installed
        for name in some.running:
            [batch] = some.server(name).log.read_sparse([Index(kept)])
            assert (batch.first_index, batch.count) == (kept, 1)
        await some.stop("n1")
        await some.begin("n1")
        await some.equal()
        assert some.server("n1").log.read_sparse([Index(kept)])


async def test_a_snapshot_that_is_not_due_costs_no_capture(tmp_path: Path) -> None:
    """SNAP-01: the interval decides before the state is captured; `written` waits for the disk (EFF-15)."""
    rare = barque.SnapshotsConfig(min_interval=10)
    async with shelves(tmp_path, 1, snapshots=rare) as some:
        await some.put(*["snap"] * 5)
        assert some.machines["n1"].captured == 0
        await some.put(*["written"] * 10)
        await some.snapshot_at(10)
        assert 1 <= some.machines["n1"].captured <= 2


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
async def test_a_damaged_snapshot_is_never_loaded(tmp_path: Path, damage: str) -> None:
    """SNAP-10, B34: the start falls back to the log if that goes back so far, and else refuses."""
    async with shelves(tmp_path, 1, snapshots=barque.SnapshotsConfig(min_interval=1)) as some:
        *_, at = await some.put("a", "b", "snap")
        await some.snapshot_at(at)
        await some.stop("n1")
        [path] = (tmp_path / "n1").glob("servers/*/snapshots/*/snapshot")
        data = bytearray(path.read_bytes())
        if damage == "flip":
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
        elif damage == "cut":
            path.write_bytes(data[:-5])
        else:
            path.unlink()
        await some.begin("n1")  # the entries are in the log files still
        await some.equal()


async def test_a_snapshot_that_rots_while_its_leader_runs_is_replaced(tmp_path: Path) -> None:
    """The receiver refuses it; the leader looks, says so in `status`, and sends the machine's next state."""
    async with shelves(tmp_path) as some:
        (first,) = await some.put("a")
        await some.equal()
        await some.stop("n3")
        await some.forget(first + 2)
        leader = next(n for n in ("n1", "n2") if some.server(n).raft_state is RaftState.LEADER)
        [path] = (tmp_path / leader).glob("servers/*/snapshots/*/snapshot")
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        await some.begin("n3")

        async def noticed() -> bool:
            snapshots = some.server(leader).log.snapshots
            return isinstance(snapshots, SnapshotStore) and snapshots.counters()["snapshots_damaged"] == 1

        await until(noticed, "the leader to notice the damage")
        assert not some.machines["n3"].installed
        status = await some.at.node_overview(leader)
        assert any("damaged since it was written" in note for note in status.storage["recovery_notes"])
        await some.put("snap")
        await some.equal()
        assert some.machines["n3"].installed
        assert not path.exists()


async def test_memory_and_disk_level_off(tmp_path: Path) -> None:
    """SEG-07, WAL-08, WAL-13, LOG-15, MT-05: closed log files go to segments, and these go with snapshots."""
    async with shelves(tmp_path, 1) as some:
        sizes = []
        for _ in range(6):
            await some.put(*("v" * 3_000 for _ in range(60)))
            await some.snap()

            async def quiet() -> bool:
                overview = some.running["n1"].system.storage.overview()
                return int(overview["files"]) <= 3

            await until(quiet, "closed log files to be recycled")
            sizes.append(sum(p.stat().st_size for p in (tmp_path / "n1").rglob("*") if p.is_file()))
        assert max(sizes[3:]) <= 1.5 * max(sizes[:3]), sizes


async def test_a_member_that_is_further_than_thought_gets_entries(tmp_path: Path) -> None:
    """SEND-08: the leader believes that a member lacks everything; the first piece is answered with where it
    stands, no other is sent, nothing is installed, and it goes on by entries.
    """
    async with shelves(tmp_path) as some:
        (first,) = await some.put("a")
        await some.equal()
        await some.forget(first + 1)
        await some.equal()
        leader = some.server(await some.leader(some.at, "shelf"))
        member, peer = next((member, peer) for member, peer in leader.peers)
        assert leader.log.first_index() > first + 1
        peer.next_index, peer.match_index = Index(1), Index(0)
        await some.equal()
        processes = some.running[leader.id.node].system.processes
        assert processes["shelf"].counters.snapshots_sent == 1
        assert not some.machines[member.node].installed
        assert peer.status is PeerStatus.NORMAL
        assert peer.match_index >= leader.log.snapshot_index_term().index


async def test_a_member_with_older_code_installs_no_newer_snapshot(tmp_path: Path) -> None:
    """SEND-02, SEND-07, F-15: a snapshot of a machine version that its code lacks never becomes its state;
    the leader gives up, tries later, and succeeds when the code is newer.
    """

    class NewShelf(Shelf):
        version = 1

        def which_module(self, version: int) -> barque.Machine[Any]:
            return self

    quick = barque.SnapshotsConfig(min_interval=1, chunk_size_bytes=200, backoff_ms=20, silence_ticks_max=2)
    async with shelves(tmp_path, snapshots=quick, machine_upgrade_strategy="quorum") as some:
        (first,) = await some.put("a")
        await some.equal()
        for name in ("n1", "n2", "n3"):
            await some.stop(name)
        for name in ("n1", "n2"):
            some.machines[name] = NewShelf()
            await some.start(name, machines={"shelf": some.machines[name]})
        await some.forget(first + 5)
        await some.begin("n3")
        sender = some.running[await some.leader(some.at, "shelf")].system.processes["shelf"]

        async def tried_twice() -> bool:
            return sender.counters.snapshots_sent >= 2

        await until(tried_twice, "another attempt")
        assert not some.machines["n3"].installed
        assert some.server("n3").last_applied <= first + 5
        await some.stop("n3")
        some.machines["n3"] = NewShelf()
        await some.start("n3", machines={"shelf": some.machines["n3"]})
        await some.equal()
        assert some.machines["n3"].installed


def hear_no_snapshots(node: barque.Node) -> Callable[[], None]:
    """Drop the snapshots that come to a node, as a bad network would; the result ends that."""
    hear = node.on_envelopes

    def hear_others(sender: str, envelopes: list[Envelope]) -> None:
        hear(sender, [e for e in envelopes if not isinstance(e.message, InstallSnapshotRpc)])

    node.on_envelopes = hear_others  # type: ignore[method-assign]

    def end() -> None:
        node.on_envelopes = hear  # type: ignore[method-assign]

    return end


async def sending_to(some: "Shelves", leader: str, member: str) -> None:
    """Wait until the leader sends that member a snapshot."""

    async def sends() -> bool:
        peer = next(peer for found, peer in some.server(leader).peers if found.node == member)
        return peer.status is PeerStatus.SENDING_SNAPSHOT

    await until(sends, f"{leader} to send {member} a snapshot")


async def test_a_wish_can_wait_until_no_snapshot_is_sent(tmp_path: Path) -> None:
    """EFF-15: with `no_snapshot_sends` the member that is being sent one is served first."""
    async with shelves(tmp_path) as some:
        (first,) = await some.put("a")
        await some.equal()
        await some.at.transfer_leadership("shelf", "n1")
        leader = await some.leader(some.at, "shelf")
        await some.stop("n3")
        await some.forget(first + 2)
        await some.begin("n3")
        end = hear_no_snapshots(some.running["n3"])
        await sending_to(some, leader, "n3")
        (at,) = await some.put("quiet")
        waiting = some.server(leader).pending_release_cursor
        assert waiting is not None
        assert some.snapshot(leader) < at
        end()
        await some.equal()
        await some.snapshot_at(at, leader)


async def test_a_leadership_begins_without_what_an_earlier_one_knew_of_peers(tmp_path: Path) -> None:
    """CORE-17: a peer that was being sent a snapshot is a normal one for the next leadership."""
    async with shelves(tmp_path) as some:
        (first,) = await some.put("a")
        await some.equal()
        leader = await some.leader(some.at, "shelf")
        away, other = [name for name in some.addresses if name != leader]
        await some.stop(away)
        await some.forget(first + 2)
        await some.begin(away)
        end = hear_no_snapshots(some.running[away])
        await sending_to(some, leader, away)

        async def led_by(name: str) -> bool:
            return await some.leader(some.at, "shelf") == name

        sent = some.running[leader].system.processes["shelf"].counters.snapshots_sent
        await some.at.transfer_leadership("shelf", other)
        await until(lambda: led_by(other), "the other one leads")
        await some.at.transfer_leadership("shelf", leader)
        await until(lambda: led_by(leader), "the first one leads again")
        await sending_to(some, leader, away)
        assert some.running[leader].system.processes["shelf"].counters.snapshots_sent > sent
        end()
        await some.equal()
        assert some.machines[away].installed


async def test_a_transfer_ends_with_its_receivers_node_and_begins_anew(tmp_path: Path) -> None:
    """REPL-23: nothing is sent to a peer out of reach, until its node is back."""
    async with shelves(tmp_path) as some:
        (first,) = await some.put("a")
        await some.equal()
        leader = await some.leader(some.at, "shelf")
        away = next(name for name in some.addresses if name != leader)
        await some.stop(away)
        await some.forget(first + 2)
        await some.begin(away)
        hear_no_snapshots(some.running[away])
        await sending_to(some, leader, away)
        await some.stop(away)

        async def given_up() -> bool:
            peer = next(peer for found, peer in some.server(leader).peers if found.node == away)
            return peer.status is PeerStatus.DISCONNECTED

        await until(given_up, "the transfer to end")
        await some.begin(away)
        await some.equal()
        assert some.machines[away].installed


class LaterShelf(Shelf):
    """Version 1, which keeps its state as it was."""

    version = 1


async def test_a_snapshot_names_the_version_of_its_entry(tmp_path: Path) -> None:
    """VER-07, VER-08: a checkpoint of version 0 that is promoted under version 1 is one of version 0."""
    async with shelves(tmp_path, 1) as some:
        (at,) = await some.put("check")

        async def kept() -> bool:
            return bool(some.server("n1").log.snapshots.overview()["checkpoints"])

        await until(kept, "the checkpoint")
        await some.stop("n1")
        some.machines["n1"] = LaterShelf()
        await some.start("n1", machines={"shelf": some.machines["n1"]})

        async def moved() -> bool:
            return some.server("n1").effective_machine_version == 1

        await until(moved, "version 1")
        await some.put("promote")
        await some.snapshot_at(at)
        current = some.server("n1").log.snapshots.current()
        assert current is not None
        assert (current.position.index, current.machine_version) == (at, 0)
        await some.stop("n1")
        await some.start("n1", machines={"shelf": some.machines["n1"]})
        assert (await some.state("n1"))["items"][0] == "check"


async def test_commands_that_wait_end_with_the_leadership(tmp_path: Path) -> None:
    """CMD-07: each command of low priority is applied or refused; none is left without an answer."""
    async with shelves(tmp_path) as some:
        leader = await some.leader(some.at, "shelf")
        other = next(name for name in some.addresses if name != leader)
        for name in some.addresses:
            server = some.server(name)
            server.cfg = msgspec.structs.replace(server.cfg, low_priority_commands_flush_size=1)
        with watched() as reached:
            rounds = 0
            while not reached["a queue of low priority ends with its leadership"]:
                rounds += 1
                assert rounds < 30
                sent = 1_000
                async with some.client(leader) as client:
                    await client.ping()
                    for number in range(sent):
                        client.pipeline_command("shelf", number, number)
                    moving = asyncio.ensure_future(some.at.transfer_leadership("shelf", other))
                    answers = []
                    while len(answers) < sent:
                        answers += await client.take_notifications()
                    await asyncio.gather(moving, return_exceptions=True)
                assert len({answer.correlation for answer in answers}) == sent
                leader = await some.leader(some.at, "shelf")
                other = next(name for name in some.addresses if name != leader)

        async def equal() -> bool:  # what is unknown may still be on its way
            states = [some.server(name).machine_state for name in some.running]
            return all(state == states[0] for state in states)

        await until(equal, "equal members")
