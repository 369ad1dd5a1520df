"""A machine's own store of snapshots on whole nodes, and what a leader checks before it sends one."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.log.modules import Blocks, FileModule, NoteMachine, Raises
from tests.nodes import Nodes, until

import barque
from barque.core import packing
from barque.core.packing import Packing
from barque.core.state import Server
from barque.log.snapshot_format import snapshot_name
from barque.runtime.server_timers import ServerTimers

OFTEN = barque.SnapshotsConfig(min_interval=1, chunk_size_bytes=200, backoff_ms=20)
SMALL = barque.LogConfig(wal_max_size_bytes=16_384, segment_max_entries=8, prefill=False)
LOG_OF_SENDER = "barque.server"


class NoteNodes(Nodes):
    """Three nodes with a cluster `notes`; each has a module of its own."""

    at: barque.Client

    async def begin(self, name: str, machine: NoteMachine | None = None) -> NoteMachine:
        """Start one node with this machine, or a plain one."""
        machine = NoteMachine(FileModule()) if machine is None else machine
        await self.start(name, machines={"notes": machine})
        return machine

    def server(self, name: str) -> Server:
        """The member on this node."""
        return self.running[name].system.processes["notes"].server

    def sent(self) -> int:
        """How many transfers of a snapshot have begun."""
        processes = [node.system.processes["notes"] for node in self.running.values()]
        return sum(process.counters.snapshots_sent for process in processes)

    async def note(self, *values: str) -> None:
        """Take notes, one after the other."""
        for value in values:
            await self.at.process_command("notes", [value[:20], value])

    async def forget(self) -> None:
        """Let the logs drop everything so far."""
        end = max(self.server(name).last_applied for name in self.running)

        async def forgotten() -> bool:
            await self.note(*(f"{number} {'x' * 3_000}" for number in range(10)))
            return all(self.server(name).log.first_index() > end for name in self.running)

        await until(forgotten, "the logs to drop their beginning")

    async def equal(self) -> None:
        """Wait until all members have applied everything; their states are the same."""
        await self.note("last")

        async def there() -> bool:
            end = max(self.server(name).last_applied for name in self.running)
            return all(self.server(name).last_applied == end for name in self.running)

        await until(there, "everything everywhere")
        states = [self.server(name).machine_state for name in self.running]
        assert all(state == states[0] for state in states)


@contextlib.asynccontextmanager
async def note_nodes(
    directory: Path, count: int = 3, n3: NoteMachine | None = None, **settings: Any
) -> AsyncIterator[NoteNodes]:
    """These nodes, running, with a first note; the third with this machine."""
    some = NoteNodes(directory, count, **{"snapshots": OFTEN, "log": SMALL, **settings})
    for name in some.addresses:
        await some.begin(name, n3 if name == "n3" else None)
    async with some.client() as some.at:
        await some.at.start_cluster("notes", "notes")
        try:
            await some.note("first")
            yield some
        finally:
            await some.stop()


@contextlib.contextmanager
def pauses_in(patch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The pauses before another attempt, in milliseconds, as the leaders set them."""
    pauses: list[int] = []
    arm = ServerTimers.start_snapshot_retry

    def note(self: ServerTimers, process: Any, effect: Any) -> None:
        pauses.append(effect.after_ms)
        arm(self, process, effect)

    patch.setattr(ServerTimers, "start_snapshot_retry", note)
    yield pauses


async def test_members_keep_snapshots_by_their_module_and_start_from_them(tmp_path: Path) -> None:
    """SNAP-04, MAC-09: each writes files of its own beside Barque's; a restart applies nothing again."""
    async with note_nodes(tmp_path) as some:
        await some.note("a", "b")
        await some.equal()
        end = some.server("n2").last_applied

        async def kept() -> bool:
            return all(some.server(name).log.snapshot_index_term().index >= end for name in some.running)

        async def asked() -> bool:
            await some.note("more")  # the wish before came while another snapshot was being written
            return await kept()

        await until(asked, "snapshots of everything")
        for name in some.running:
            place = snapshot_name(some.server(name).log.snapshot_index_term())
            [state] = (tmp_path / name).glob(f"servers/*/snapshots/{place}/state")
            assert sorted(path.name for path in state.iterdir()) == ["count", "notes"]
        await some.stop("n2")
        machine = await some.begin("n2")
        await some.equal()
        assert machine.applied < end  # the snapshot stands for the others
        assert some.server("n2").machine_state.keys() >= {"first", "a", "b"}


async def test_a_member_that_lags_gets_it_through_both_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SNAP-04, SEND-02, SEND-03: `read_chunks` there, `accept_chunks` here; the receiver tells its context
    first. Its module may be newer, and pieces are compressed if both sides can.
    """

    class Newer(FileModule):
        version = 3

        def context(self) -> dict[str, Any]:
            return {"likes": "notes"}

    contexts: list[dict[str, Any]] = []

    class Sends(FileModule):
        def read_chunks(self, directory: Path, context: dict[str, Any]) -> Iterator[bytes]:
            contexts.append(context)
            return super().read_chunks(directory, context)

    packings: list[int] = []
    unpack = packing.unpack
    monkeypatch.setattr(packing, "unpack", lambda data, how: [packings.append(how), unpack(data, how)][1])
    snapshots = barque.SnapshotsConfig(
        min_interval=1, chunk_size_bytes=5_000, backoff_ms=20, compression="zlib"
    )
    async with note_nodes(tmp_path, snapshots=snapshots) as some:
        for name in ("n1", "n2"):
            await some.stop(name)
            await some.begin(name, NoteMachine(Sends()))
        await some.stop("n3")
        await some.forget()
        assert some.sent() == 0  # nothing is sent to a node that is not there
        machine = await some.begin("n3", NoteMachine(Newer()))
        await some.equal()
        assert some.sent() == 1
        assert contexts == [{"likes": "notes"}]
        assert Packing.ZLIB in packings
        assert "first" in some.server("n3").machine_state
        assert machine.applied < some.server("n3").last_applied - 5


async def test_a_snapshot_is_not_sent_to_who_cannot_read_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SEND-02: without a module, with another, or with an older one. Not a chunk goes out, and the leader's
    log says what lacks; with the right code the member gets everything.
    """

    class OtherName(FileModule):
        name = "other"

    class Older(FileModule):
        version = 1

    async with note_nodes(tmp_path, n3=NoteMachine(None, asks=False)) as some:
        await some.stop("n3")
        await some.forget()
        wrong = ((None, "none"), (OtherName(), "'other' version 2"), (Older(), "'files' version 1"))
        with caplog.at_level(logging.INFO, LOG_OF_SENDER):
            for module, text in wrong:
                machine = await some.begin("n3", NoteMachine(module, asks=False))

                async def refused(text: str = text) -> bool:
                    return f"the receiver has {text}" in caplog.text

                await until(refused, "the leader to give up")
                assert machine.applied <= 1  # at most what its own log has
                await some.stop("n3")
        await some.begin("n3")
        await some.equal()


async def test_a_transfer_that_fails_is_tried_again_later_and_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SEND-07: the receiver's module refuses three times; each pause is longer; then everything is there."""

    class FailsAtFirst(FileModule):
        calls = 0

        def accept_chunks(self, directory: Path, chunks: Iterator[bytes]) -> None:
            self.calls += 1
            if self.calls <= 3:
                raise RuntimeError("not yet")
            super().accept_chunks(directory, chunks)

    module = FailsAtFirst()
    with pauses_in(monkeypatch) as pauses:
        async with note_nodes(tmp_path) as some:
            await some.stop("n3")
            await some.forget()
            machine = await some.begin("n3", NoteMachine(module))
            await some.equal()
            assert module.calls == some.sent() == 4
            assert machine.applied < some.server("n3").last_applied - 5
    assert [pause for pause in pauses if pause >= 20][:3] == [20, 40, 80]


async def test_a_module_that_cannot_write_stops_nobody(tmp_path: Path) -> None:
    """SNAP-04: the snapshot has failed, with machine, module and callback named; commands go on."""
    async with note_nodes(tmp_path, 1) as some:
        await some.stop("n1")
        await some.begin("n1", NoteMachine(Raises("write")))

        async def told() -> bool:
            await some.note("again")
            overview = some.server("n1").log.snapshots.overview()
            return "no write today" in str(overview["last_failure"])

        await until(told, "the failure to be told")
        text = str(some.server("n1").log.snapshots.overview()["last_failure"])
        assert "machine NoteMachine" in text
        assert "'files'" in text
        await some.stop("n1")
        await some.begin("n1")
        await some.equal()


async def test_a_node_that_cannot_compress_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package for zstd a node that is told to use it refuses to start, and names the package."""
    monkeypatch.setattr(packing, "_CODECS", {})
    some = NoteNodes(tmp_path, 1, snapshots=barque.SnapshotsConfig(compression="zstd"))
    with pytest.raises(barque.ConfigurationError, match=r"barque\[zstd\]"):
        await some.begin("n1")
    assert not some.running
    some.settings = {}
    await some.begin("n1")  # nothing of the first attempt holds the directory
    await some.stop()


async def test_a_module_that_blocks_holds_up_nobody_else(tmp_path: Path) -> None:
    """Its own machine's commands go on, and so do the snapshots of machines without a module. Its cluster can
    be deleted meanwhile: what it writes later has no place to come back to.
    """
    module = Blocks()
    some = NoteNodes(tmp_path, 1, snapshots=OFTEN)
    await some.start("n1", machines={"notes": NoteMachine(module), "plain": NoteMachine(None)})
    async with some.client() as some.at:
        try:
            await some.at.start_cluster("plain", "plain")
            await some.at.start_cluster("notes", "notes")
            await some.note("first")
            await asyncio.to_thread(module.entered.wait, 10)
            await some.note("second")
            await some.at.process_command("plain", ["a", "b"])

            async def kept() -> bool:
                return (await some.at.overview("plain")).log["snapshot_index"] > 0

            await until(kept, "a snapshot of the other machine")
            assert some.server("n1").log.snapshot_index_term().index == 0
            [own] = (tmp_path / "n1" / "servers").glob("NOTES*")
            await some.at.delete_cluster("notes")

            async def gone() -> bool:
                return not own.exists()

            await until(gone, "the deleted member's files to go")
            module.go_on.set()
        finally:
            module.go_on.set()
            await some.stop()
    assert not list((tmp_path / "n1" / "servers").glob("NOTES*"))
