"""Programs in a node's process read the logs of its members, while files move, members go and nodes stop."""

import asyncio
import contextlib
import gc
import threading
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.nodes import Nodes, until
from tests.runtime.test_snapshots_on_nodes import Shelves, shelves

import barque
from barque.log.log import WalLog
from barque.log.read_plan import LogEntry
from barque.runtime.log_readers import ExternalLogReader, LogUpdate


class Add(msgspec.Struct, tag="add"):
    """Add a number."""

    number: int


class Book(barque.Machine[int]):
    """Adds numbers that come in a type of its own."""

    command_type = Add

    def init(self, args: dict[str, Any]) -> int:
        """Nothing yet."""
        return 0

    def apply(self, meta: barque.CommandMeta, command: Any, state: int) -> Any:
        """The sum."""
        if command == Add(number=-1):
            raise ValueError("no such number")
        return (state + command.number, None) if isinstance(command, Add) else (state, None)


def log_of(some: Nodes, name: str, cluster: str) -> WalLog:
    """The log of a cluster's member on a node."""
    system = some.running[name].system
    process = system.servers.member_of(cluster)
    assert process is not None
    return system.storage.log(process.uid)


@contextlib.asynccontextmanager
async def one_shelf(directory: Path, **settings: Any) -> AsyncIterator[Shelves]:
    """One node with a shelf: small segments, and a snapshot whenever a command says so."""
    async with shelves(directory, 1, **settings) as some:
        yield some


def commands(entries: "list[LogEntry]") -> list[Any]:
    """What the entries hold."""
    return [entry.command for entry in entries]


async def in_segments(some: Nodes, index: int, cluster: str = "shelf") -> None:
    """Wait until the entries up to here are in segments."""

    async def there() -> bool:
        return log_of(some, "n1", cluster).segments.end.index >= index

    await until(there, f"entry {index} in a segment")


async def fill(some: Shelves, *, until_in_segments: int) -> None:
    """Commit large commands until the entries up to an index are in segments."""
    number = 0
    while log_of(some, "n1", "shelf").segments.end.index < until_in_segments:
        await some.put(*(f"filler {number + i} {'x' * 900}" for i in range(8)))
        number += 8


async def test_entries_are_read_at_indexes(tmp_path: Path) -> None:
    """EXT-05, EXT-04: `log_read` yields the user commands, with their places, from memory and segments."""
    async with one_shelf(tmp_path) as some:
        node = some.running["n1"]
        indexes = await some.put("a", ["b", 2], {"c": None})
        found = await node.log_read("shelf", [*reversed(indexes), 1, 999])
        assert commands(found) == [{"c": None}, ["b", 2], "a"]
        assert [entry.index for entry in found] == indexes[::-1]
        assert {entry.term for entry in found} == {some.server("n1").current_term}
        assert all(entry.timestamp_ms > 1_600_000_000_000 for entry in found)
        await fill(some, until_in_segments=indexes[-1])
        assert await node.log_read("shelf", [*reversed(indexes), 1]) == found
        with pytest.raises(barque.UnknownCluster, match="no member of 'other' runs on node n1"):
            await node.log_read("other", [1])


async def test_a_log_is_folded_beside_the_loop(tmp_path: Path) -> None:
    """EXT-05: from the snapshot to the end, one command at a time, in another thread than the loop's."""
    async with one_shelf(tmp_path) as some:
        node = some.running["n1"]
        await some.put(*"abcd", "snap")
        await some.snapshot_at(5)
        await fill(some, until_in_segments=20)
        await some.put("e", "f")
        seen_in: set[int] = set()

        def count(entry: LogEntry, counted: dict[str, int]) -> dict[str, int]:
            seen_in.add(threading.get_ident())
            word = str(entry.command).split()[0]
            return {**counted, word: counted.get(word, 0) + 1}

        counted = await node.log_fold("shelf", count, {})
        log = log_of(some, "n1", "shelf")
        assert counted == {"filler": counted["filler"], "e": 1, "f": 1}
        assert sum(counted.values()) == log.last_index_term().index - log.snapshot_index_term().index
        assert seen_in
        assert threading.get_ident() not in seen_in


async def test_a_fold_that_takes_long_holds_nobody_up(tmp_path: Path) -> None:
    """EXT-05: while a fold waits in its function, commands go on, and files move; it yields the old log."""
    async with one_shelf(tmp_path) as some:
        node = some.running["n1"]
        await fill(some, until_in_segments=20)
        wanted = [e.index for e in await node.log_read("shelf", range(1, 1000))]
        begun, go_on = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def collect(entry: LogEntry, found: list[int]) -> list[int]:
            loop.call_soon_threadsafe(begun.set)
            assert go_on.wait(30)
            return [*found, entry.index]

        folding = asyncio.ensure_future(node.log_fold("shelf", collect, []))
        await begun.wait()
        last = (await some.put("snap"))[-1]
        await some.snapshot_at(last)
        await fill(some, until_in_segments=last + 20)
        assert log_of(some, "n1", "shelf").first_index() > wanted[-1]
        go_on.set()
        assert await folding == wanted
        assert log_of(some, "n1", "shelf").overview()["readers"]["dropped"] == 0


@pytest.mark.parametrize("error", [ValueError("mine"), StopIteration()])
async def test_an_error_of_the_function_is_the_callers(tmp_path: Path, error: Exception) -> None:
    """EXT-05: what the function raises ends the fold, is raised, and harms nothing else."""
    async with one_shelf(tmp_path) as some:
        await some.put("a")

        def fail(_entry: LogEntry, _found: None) -> None:
            raise error

        with pytest.raises((ValueError, RuntimeError), match=r"mine|raised StopIteration"):
            await some.running["n1"].log_fold("shelf", fail, None)
        assert await some.put("b") == [3]


async def test_commands_are_decoded_by_the_machine(tmp_path: Path) -> None:
    """EXT-05: the machine's own types come back."""
    made = Nodes(tmp_path, 1)
    await made.start(machines={"book": Book()})
    try:
        async with made.client() as client:
            await client.start_cluster("book", "book")
            await client.process_command("book", Add(number=7))
        assert commands(await made.running["n1"].log_read("book", range(10))) == [Add(number=7)]
    finally:
        await made.stop()


async def test_a_plan_says_where_its_entries_are(tmp_path: Path) -> None:
    """EXT-03, EXT-04: a plan of a running member, executed in a thread after its files were replaced."""
    async with one_shelf(tmp_path) as some:
        node = some.running["n1"]
        await fill(some, until_in_segments=20)
        log = log_of(some, "n1", "shelf")
        end, last = log.segments.end.index, log.last_index_term().index
        with node.read_entries("shelf", range(2, last + 1)) as plan:
            info = plan.info()
            assert (info.segment_entries, info.memory_entries) == (end - 1, last - end)
            assert info.segments == len(log.segments.parts)
            snapped = (await some.put("snap"))[-1]
            await some.snapshot_at(snapped)
            await fill(some, until_in_segments=snapped + 10)
            assert log.first_index() > last
            found = await asyncio.to_thread(list, plan.execute())
            assert [entry.index for entry in found] == list(range(2, last + 1))
        with pytest.raises(barque.Stopped, match="this plan is closed"):
            list(plan.execute())


async def test_a_plan_of_a_deleted_member_says_so(tmp_path: Path) -> None:
    """EXT-03: deleted by force or by consensus, a member's plans and readers end with the reason."""
    async with one_shelf(tmp_path) as some:
        node = some.running["n1"]
        await some.put("a")
        plan = node.read_entries("shelf", [2])
        reader = node.register_external_log_reader("shelf")
        await anext(reader)
        waiting = asyncio.ensure_future(anext(reader))
        await some.at.call("force_delete_server", {"cluster": "shelf"})
        with pytest.raises(barque.Stopped, match="was deleted"):
            await waiting
        with pytest.raises(barque.Stopped, match="was deleted"):
            list(plan.execute())
        reader.close()


async def test_what_reads_ends_with_the_node(tmp_path: Path) -> None:
    """EXT-02, EXT-03: when a node stops, plans and readers end, and it makes no new ones."""
    async with one_shelf(tmp_path) as some:
        node = some.running["n1"]
        await some.put("a")
        plan = node.read_entries("shelf", [2])
        reader = node.register_external_log_reader("shelf")
        await anext(reader)
        await some.stop("n1")
        with pytest.raises(barque.Stopped, match="the node has stopped"):
            await anext(reader)
        with pytest.raises(barque.Stopped, match="the node has stopped"):
            list(plan.execute())
        reader.close()
        with pytest.raises(barque.Stopped, match="node n1 does not run"):
            node.read_entries("shelf", [2])
        with pytest.raises(barque.Stopped, match="node n1 does not run"):
            await node.log_fold("shelf", lambda _entry, found: found, None)


async def test_a_reader_of_a_failed_member_says_so(tmp_path: Path) -> None:
    """EXT-02: when a machine's bug has stopped the member, the reader that waits gets the reason."""
    made = Nodes(tmp_path, 1)
    await made.start(machines={"book": Book()})
    try:
        async with made.client() as client:
            await client.start_cluster("book", "book")
            async with made.running["n1"].register_external_log_reader("book") as reader:
                await anext(reader)
                waiting = asyncio.ensure_future(anext(reader))
                with pytest.raises(barque.BarqueError):
                    await client.process_command("book", Add(number=-1), timeout_s=0.2)
                async with asyncio.timeout(20):
                    with pytest.raises(barque.Stopped, match=r"server book@n1 has stopped: .*no such number"):
                        await waiting
    finally:
        await made.stop()


async def test_a_reader_follows_the_log(tmp_path: Path) -> None:
    """EXT-01, API-29: it hears of the files at once, then of new segments, and reads what they hold."""
    async with one_shelf(tmp_path) as some:
        node = some.running["n1"]
        copied: list[LogEntry] = []
        async with node.register_external_log_reader("shelf") as reader:
            log = log_of(some, "n1", "shelf")
            assert reader.uid == log.uid
            assert reader.directory.startswith(str(tmp_path))
            update = await anext(reader)
            assert (update.number, update.first_index, update.last_index, update.segments) == (1, 1, 0, ())
            while len(copied) < 60:
                await fill(some, until_in_segments=update.last_index + 10)
                update = await anext(reader)
                assert update.last_index >= update.committed_index >= update.segments[-1].last_index
                assert all(Path(segment.path).parent == Path(reader.directory) for segment in update.segments)
                with reader.read_entries(range(len(copied) + 2, update.last_index + 1)) as plan:
                    assert plan.info().memory_entries == 0
                    copied += await asyncio.to_thread(list, plan.execute())
                reader.acknowledge(update)
            assert copied == await node.log_read("shelf", range(1, copied[-1].index + 1))
        assert [update async for update in reader] == []
        assert len(log.segments.holds) == 0


async def test_a_reader_is_told_of_a_truncation_and_keeps_what_it_may_read(tmp_path: Path) -> None:
    """EXT-01: a snapshot drops files; the reader hears of it, and reads on until it acknowledges."""
    async with one_shelf(tmp_path) as some:
        node = some.running["n1"]
        await fill(some, until_in_segments=20)
        log = log_of(some, "n1", "shelf")
        async with node.register_external_log_reader("shelf") as reader:
            before = await anext(reader)
            assert before.first_index == 1
            snapped = (await some.put("snap"))[-1]
            await some.snapshot_at(snapped)
            await fill(some, until_in_segments=snapped + 20)

            async def dropped() -> bool:
                return log.first_index() > before.last_index

            await until(dropped, "the old files to be dropped")
            with reader.read_entries(range(1, before.last_index + 1)) as plan:
                old = await asyncio.to_thread(list, plan.execute())
            assert [entry.index for entry in old] == list(range(2, before.last_index + 1))
            assert log.segments.holds.kept_bytes > 0
            update = before
            while update.last_index < snapped + 20:
                update = await anext(reader)
            assert update.first_index > before.last_index
            reader.acknowledge(update)

            async def let_go() -> bool:
                return log.segments.holds.kept_bytes == 0

            await until(let_go, "the tick, which lets go of what the closed plan has kept, too")
            with reader.read_entries(range(1, update.last_index + 1)) as plan:
                assert next(e.index for e in plan.execute()) >= update.first_index


async def test_a_reader_that_never_acknowledges_is_dropped(tmp_path: Path) -> None:
    """EXT-01: what is kept for it is bounded; it is dropped, counted in the overview, and told why."""
    log = barque.LogConfig(
        wal_max_size_bytes=16_384, segment_max_entries=8, prefill=False, readers_bytes_max=40_000
    )
    async with one_shelf(tmp_path, log=log) as some:
        node = some.running["n1"]
        await fill(some, until_in_segments=10)
        reader = node.register_external_log_reader("shelf")
        holds = log_of(some, "n1", "shelf").segments.holds
        update = await anext(reader)
        while not holds.dropped:
            snapped = (await some.put("snap"))[-1]
            await some.snapshot_at(snapped)
            await fill(some, until_in_segments=max(snapped, update.last_index) + 10)
            assert holds.kept_bytes <= 40_000
            with contextlib.suppress(barque.Stopped):
                update = await anext(reader)
        with pytest.raises(barque.Stopped, match="at most 64 files, 40000 bytes"):
            await anext(reader)
        facts = (await some.at.overview("shelf")).log["readers"]
        assert facts == {"open": 0, "kept_files": 0, "kept_bytes": 0, "dropped": 1}
        reader.acknowledge(update)
        with pytest.raises(barque.Stopped, match="was dropped"):
            reader.read_entries([1])
        reader.close()


async def test_a_reader_goes_down_with_its_task(tmp_path: Path) -> None:
    """EXT-02: when the task ends that has registered it, by an error or not, its files are let go."""
    async with one_shelf(tmp_path) as some:
        node = some.running["n1"]
        await fill(some, until_in_segments=20)
        log = log_of(some, "n1", "shelf")
        held: list[ExternalLogReader] = []

        async def follow() -> None:
            held.append(node.register_external_log_reader("shelf"))
            await anext(held[0])
            raise RuntimeError("a bug of the program")

        with pytest.raises(RuntimeError):
            await asyncio.ensure_future(follow())
        await asyncio.sleep(0)
        assert len(log.segments.holds) == 0
        with pytest.raises(StopAsyncIteration):
            await anext(held[0])


async def test_a_reader_of_a_callback_is_closed_or_warns(tmp_path: Path) -> None:
    """EXT-02: a reader that no task owns ends when it is collected, and warns."""
    async with one_shelf(tmp_path) as some:
        node = some.running["n1"]
        log = log_of(some, "n1", "shelf")
        registered = asyncio.Event()
        seen: list[int] = []

        def register() -> None:
            node.register_external_log_reader("shelf")
            seen.append(len(log.segments.holds))
            registered.set()

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            asyncio.get_running_loop().call_soon(register)
            await registered.wait()
            gc.collect()
        assert [w.category for w in caught] == [ResourceWarning]
        assert seen == [1]

        async def gone() -> bool:
            return len(log.segments.holds) == 0

        await until(gone, "the tick to let go of it")


async def test_readers_of_followers_follow_too(tmp_path: Path) -> None:
    """EXT-01: each member has a log of its own; what is committed is the same in all of them."""
    async with shelves(tmp_path, 3) as some:
        await some.put(*(f"filler {i} {'x' * 900}" for i in range(60)))
        found: dict[str, list[Any]] = {}

        async def copy(name: str) -> None:
            async with some.running[name].register_external_log_reader("shelf") as reader:
                update: LogUpdate
                async for update in reader:
                    if update.committed_index < 20:
                        reader.acknowledge(update)
                        continue
                    with reader.read_entries(range(1, 21)) as plan:
                        found[name] = commands(await asyncio.to_thread(list, plan.execute()))
                    return

        async with asyncio.timeout(30):
            await asyncio.gather(*(copy(name) for name in some.running))
        assert len(found["n1"]) == 19
        assert found["n1"] == found["n2"] == found["n3"]


async def test_a_compaction_is_begun_on_request(tmp_path: Path) -> None:
    """API-27: by a client, through any node, and on the node itself; the answer says whether it has begun."""
    async with one_shelf(tmp_path) as some:
        node = some.running["n1"]
        await some.put("a", "keep")
        await fill(some, until_in_segments=20)
        snapped = (await some.put("snap"))[-1]
        await some.snapshot_at(snapped)
        await fill(some, until_in_segments=snapped)
        log = log_of(some, "n1", "shelf")

        async def begun() -> bool:
            return await some.at.trigger_compaction("shelf")

        await until(begun, "a compaction")

        async def done() -> bool:
            return log.segments.major_compactions == 1

        await until(done, "the end of the compaction")
        assert commands(await node.log_read("shelf", [3])) == ["keep"]
        assert not await node.trigger_compaction("shelf"), "nothing is left to do"
        assert not await some.at.cluster("shelf").trigger_compaction("n1")
        with pytest.raises(barque.ConfigurationError, match="'n9' is not among the nodes"):
            await some.at.trigger_compaction("shelf", "n9")
        with pytest.raises(barque.UnknownCluster):
            await some.at.trigger_compaction("other")


async def test_a_compaction_is_begun_on_another_node(tmp_path: Path) -> None:
    """API-27: the connected node asks the node that is named."""
    async with shelves(tmp_path, 3) as some, some.client("n1") as client:
        await some.put("a")
        assert await client.trigger_compaction("shelf", "n2") is False
        await some.stop("n3")
        with pytest.raises(barque.BarqueError):
            await client.trigger_compaction("shelf", "n3", timeout_s=1)


async def test_entries_are_read_once_for_several_peers(tmp_path: Path) -> None:
    """REPL-08: two members that lag get the same old entries; the leader reads them from its files once."""
    async with shelves(tmp_path, 5) as some:
        leader = await some.leader(some.at, "shelf")
        away = [name for name in some.running if name != leader][:2]
        await some.stop(*away)
        log = log_of(some, leader, "shelf")
        while log.segments.end.index < 60:
            await some.put(*(f"filler {i} {'x' * 900}" for i in range(8)))
        cache, read = log.segments._cache.batches, log.segments.entries_read
        hits = cache.hits
        last = log.last_index_term().index
        for name in away:
            await some.begin(name)

        async def have_all() -> bool:
            return all(some.server(name).last_applied >= last for name in away)

        await until(have_all, "two members that catch up")
        assert leader == await some.leader(some.at, "shelf")
        assert log.segments.entries_read - read >= 2 * 50
        assert cache.hits - hits >= 50
