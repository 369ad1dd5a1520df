"""Test suites for parts of your own. Subclass one in a test module; pytest runs it.

`LogSuite` tests what the core relies on in a `Log`, `TransportSuite` what a node relies on in a `Transport`,
`SnapshotModuleSuite` what snapshots rely on in a `SnapshotModule`. docs/how-to/test-my-machine.md shows the
first two, docs/how-to/bring-your-own-snapshot-store.md the third.
"""

import asyncio
import contextlib
import tempfile
import tracemalloc
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from barque.core.entries import EntryBatch, encode_body
from barque.core.log_contract import Log
from barque.core.messages import LogEvent, Written
from barque.log.disk import OsDisk
from barque.log.module_files import STATE, check_files, seal_job, state_path
from barque.log.snapshot_format import ModuleRecord
from barque.machine.snapshot_module import CHUNK_BYTES_MAX, BoundModule, SnapshotModule
from barque.transport.contract import ClientConnectionHandle, ClientSink, Transport, TransportHandler
from barque.transport.wire import Envelope, LeaderIs
from barque.types import NOWHERE, Index, IndexTerm, ServerId, Term, Uid

_ALL = 1 << 30


def entries(first: int, term: int = 1, count: int = 1) -> EntryBatch:
    """A batch of `count` entries that starts at index `first`."""
    return EntryBatch(Index(first), Term(term), count, 0, encode_body([b"\xa1x"] * count))


class LogSuite(ABC):
    """Tests of a log. Subclass it as `class TestMyLog(LogSuite)`."""

    @abstractmethod
    def make(self) -> tuple[Log, Callable[[], list[LogEvent]]]:
        """Return an empty log, and a function that makes its writes durable and returns their events."""

    @staticmethod
    def _sync(log: Log, sync: Callable[[], list[LogEvent]]) -> None:
        for event in sync():
            log.handle_event(event)

    def test_an_empty_log(self) -> None:
        """An empty log ends at position 0. Position 0 has term 0; no other position has a term."""
        log, _ = self.make()
        assert (log.last_index_term(), log.last_written(), log.next_index()) == (NOWHERE, NOWHERE, 1)
        assert (log.fetch_term(Index(0)), log.fetch_term(Index(1))) == (0, None)
        assert log.read(Index(1), Index(9), _ALL, _ALL) == []

    def test_entries_are_there_at_once_and_durable_later(self) -> None:
        """An appended entry can be read at once. It counts as written when the log has handled its event."""
        log, sync = self.make()
        log.append(entries(1, count=3))
        assert (log.last_index_term(), log.last_written()) == (IndexTerm(Index(3), Term(1)), NOWHERE)
        self._sync(log, sync)
        assert log.last_written() == log.last_index_term()

    def test_an_overlapping_write_replaces_and_lowers(self) -> None:
        """A write at an existing index replaces all entries from there on, and lowers what is written."""
        log, sync = self.make()
        log.append(entries(1, count=4))
        self._sync(log, sync)
        log.write([entries(3, term=2)])
        assert log.last_index_term() == IndexTerm(Index(3), Term(2))
        assert log.last_written() == IndexTerm(Index(2), Term(1))
        self._sync(log, sync)
        assert log.last_written() == IndexTerm(Index(3), Term(2))

    def test_a_late_event_confirms_nothing_that_is_gone(self) -> None:
        """The log ignores an event that names another term, or another server."""
        log, sync = self.make()
        log.append(entries(1))
        self._sync(log, sync)
        log.append(entries(2, count=2))
        log.write([entries(2, term=2, count=2)])
        log.handle_event(Written(log.uid, Term(1), Index(2), Index(3)))
        assert log.last_written().index == 1
        log.handle_event(Written(Uid(f"not {log.uid}"), Term(2), Index(2), Index(3)))
        assert log.last_written().index == 1

    def test_forgetting_a_tail(self) -> None:
        """`set_last_index` shortens the log and lowers what counts as written."""
        log, sync = self.make()
        log.append(entries(1, count=5))
        self._sync(log, sync)
        log.set_last_index(Index(2))
        assert (log.last_index_term().index, log.last_written().index, log.next_index()) == (2, 2, 3)
        assert log.fetch_term(Index(3)) is None
        log.set_last_index(Index(0))
        assert log.last_index_term() == NOWHERE

    def test_reads_are_bounded_and_consecutive(self) -> None:
        """A read returns at least one batch, keeps its bounds, and never goes beyond the end."""
        log, _ = self.make()
        log.append(entries(1, count=4))
        log.append(entries(5, count=4))
        found = log.read(Index(2), Index(7), _ALL, _ALL)
        assert [(b.first_index, b.last_index) for b in found] == [(2, 4), (5, 7)]
        assert sum(b.count for b in log.read(Index(1), Index(8), 2, _ALL)) == 2
        assert len(log.read(Index(1), Index(8), _ALL, 1)) == 1
        assert log.read(Index(9), Index(20), _ALL, _ALL) == []

    def test_terms(self) -> None:
        """Each entry keeps its term."""
        log, _ = self.make()
        log.write([entries(1, 1, 2), entries(3, 4, 2)])
        assert [log.fetch_term(Index(i)) for i in range(1, 6)] == [1, 1, 4, 4, None]


class Heard:
    """A handler that records what its transport reports (`TransportHandler`)."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, Envelope]] = []
        self.up: dict[str, int] = {}

    def on_envelopes(self, node: str, envelopes: list[Envelope]) -> None:
        """See `TransportHandler`."""
        self.messages += [(node, envelope) for envelope in envelopes]

    def on_peer_connected(self, node: str, incarnation: int) -> None:
        """See `TransportHandler`."""
        self.up[node] = incarnation

    def on_peer_disconnected(self, node: str, reason: str) -> None:
        """See `TransportHandler`."""
        self.up.pop(node, None)

    def on_peer_gone(self, node: str) -> None:
        """See `TransportHandler`."""

    def on_client(self, connection: ClientConnectionHandle) -> ClientSink:
        """Clients are not part of this suite."""
        raise AssertionError("no client was expected")

    def on_turn(self) -> None:
        """See `TransportHandler`."""


class TransportSuite(ABC):
    """Tests of a transport. Subclass it as `class TestMyTransport(TransportSuite)`."""

    @abstractmethod
    async def make(self, name: str, peer: str, incarnation: int, handler: TransportHandler) -> Transport:
        """Return a transport of node `name`, started or not, that knows how to reach `peer`."""

    async def _pair(self) -> tuple[Transport, Transport, Heard, Heard]:
        heard = Heard(), Heard()
        one = await self.make("n1", "n2", 1, heard[0])
        other = await self.make("n2", "n1", 1, heard[1])
        await one.start()
        await other.start()
        await self._until(lambda: "n2" in heard[0].up and "n1" in heard[1].up)
        return one, other, *heard

    @staticmethod
    async def _until(condition: Callable[[], Any], rounds: int = 2_000) -> None:
        for _ in range(rounds):
            if condition():
                return
            await asyncio.sleep(0.005)
        raise AssertionError("the expected event did not happen in time")

    @staticmethod
    def _message(term: int) -> LeaderIs:
        return LeaderIs("kv", ServerId("s", "n1"), Term(term))

    def _run(self, work: Callable[[], Any]) -> None:
        asyncio.run(work())

    def test_messages_arrive_in_order(self) -> None:
        """Messages from one node to another on a link that stays up arrive once, in order."""

        async def work() -> None:
            one, other, _, heard = await self._pair()
            for term in range(100):
                assert one.send("n2", "s", self._message(term))
                if term % 7 == 0:
                    one.flush()
            one.flush()
            await self._until(lambda: len(heard.messages) == 100)
            assert [getattr(e.message, "term", -1) for _, e in heard.messages] == list(range(100))
            assert {node for node, _ in heard.messages} == {"n1"}
            await one.stop()
            await other.stop()

        self._run(work)

    def test_nothing_leaves_before_the_flush(self) -> None:
        """`send` only queues: the order of effects depends on it (docs/explanation/ordering.md)."""

        async def work() -> None:
            one, other, _, heard = await self._pair()
            assert one.send("n2", "s", self._message(1))
            await asyncio.sleep(0.05)
            assert heard.messages == []
            one.flush()
            await self._until(lambda: heard.messages)
            await one.stop()
            await other.stop()

        self._run(work)

    def test_a_peer_that_is_gone_is_told_of_and_refused(self) -> None:
        """When a peer stops, the transport tells the handler, and `send` to that peer returns False."""

        async def work() -> None:
            one, other, heard, _ = await self._pair()
            await other.stop()
            await self._until(lambda: "n2" not in heard.up)
            assert not one.send("n2", "s", self._message(1))
            assert not one.send("nobody", "s", self._message(1))
            await one.stop()

        self._run(work)

    def test_a_peer_that_comes_back_is_a_new_incarnation(self) -> None:
        """The handler learns the incarnation of the peer that it is connected to."""

        async def work() -> None:
            one, other, heard, _ = await self._pair()
            await other.stop()
            await self._until(lambda: "n2" not in heard.up)
            again = await self.make("n2", "n1", 2, Heard())
            await again.start()
            await self._until(lambda: heard.up.get("n2") == 2)
            await one.stop()
            await again.stop()

        self._run(work)


class SnapshotModuleSuite(ABC):
    """Tests of a snapshot module. Subclass it as `class TestMyModule(SnapshotModuleSuite)`.

    The suite uses real directories. It checks what Barque relies on; what Barque does by itself (checksums,
    syncs, names, repetition of chunks) is not the module's business.
    """

    @abstractmethod
    def module(self) -> SnapshotModule[Any]:
        """Return the module, as `Machine.snapshot_module` does."""

    @abstractmethod
    def state(self, size: int) -> Any:
        """Return a new state of about so many bytes; 0 is the first state of all."""

    @abstractmethod
    def change(self, state: Any) -> None:
        """Change a state as a command would: in place, if commands do."""

    @abstractmethod
    def picture(self, state: Any) -> Any:
        """Return a value that is equal for equal states, and does not change with its state."""

    def arguments(self) -> dict[str, Any]:
        """Return the machine's arguments, as `recover` gets them."""
        return {}

    _SIZES = (0, 1, 5_000, 2 << 20)
    _LARGE = 16 << 20
    _MEMORY_BYTES_MAX = 8 << 20
    """How much the transfer of a large state may take."""

    def _bound(self) -> BoundModule:
        return BoundModule("the suite's", self.module(), self.arguments())

    def _write(self, bound: BoundModule, place: Path, state: Any) -> Path:
        """A sealed directory, as a snapshot has it."""
        directory = state_path(str(place))
        directory.mkdir(parents=True)
        bound.prepare(IndexTerm(Index(7), Term(2)), state).write(directory)
        self._seal(bound, place)
        return directory

    @staticmethod
    def _seal(bound: BoundModule, place: Path) -> ModuleRecord:
        job = seal_job(OsDisk(), str(place), bound)
        while True:
            try:
                next(job)
            except StopIteration as end:
                record: ModuleRecord = end.value
                return record

    @staticmethod
    @contextlib.contextmanager
    def _place() -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as place:
            yield Path(place)

    @staticmethod
    def _open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def test_a_state_comes_back(self) -> None:
        """`recover` makes an equal state of what `prepare` and `write` have kept, also of the first state."""
        for size in self._SIZES:
            with self._place() as place:
                bound, state = self._bound(), self.state(size)
                directory = self._write(bound, place / "one", state)
                bound.validate(directory)
                assert self.picture(bound.recover(directory)) == self.picture(state), (
                    f"a state of {size} bytes"
                )

    def test_a_capture_is_of_its_moment(self) -> None:
        """What happens to a state between `prepare` and `write` is not in the snapshot."""
        with self._place() as place:
            bound, state = self._bound(), self.state(5_000)
            before = self.picture(state)
            capture = bound.prepare(IndexTerm(Index(7), Term(2)), state)
            self.change(state)
            assert self.picture(state) != before, "change() must change the picture"
            capture.write(place)
            assert self.picture(bound.recover(place)) == before

    def test_nothing_changes_a_directory(self) -> None:
        """Reading, checking and recovering leave all files as they are; so do changes of the new state."""
        with self._place() as place:
            bound = self._bound()
            directory = self._write(bound, place, self.state(5_000))
            record = self._seal(bound, place)
            assert record == self._seal(bound, place), (
                "the files, or the facts, differ when nothing has changed"
            )
            bound.validate(directory)
            for _ in bound.read_chunks(directory, bound.context()):
                pass
            recovered = bound.recover(directory)
            self.change(recovered)
            check_files(OsDisk(), str(place), record)

    def test_a_state_travels(self) -> None:
        """`accept_chunks` makes an equal state, with equal facts, wherever the borders of the chunks are."""
        for size in self._SIZES:
            with self._place() as place:
                bound, state = self._bound(), self.state(size)
                directory = self._write(bound, place / "one", state)
                stream = b"".join(bound.read_chunks(directory, bound.context()))
                for border in (CHUNK_BYTES_MAX, 1_000) if size < 1 << 20 else (CHUNK_BYTES_MAX,):
                    other = state_path(str(place / str(border)))
                    other.mkdir(parents=True)
                    chunks = (stream[at : at + border] for at in range(0, len(stream), border))
                    bound.accept_chunks(other, chunks)
                    sealed = self._seal(bound, other.parent)
                    assert sealed.facts == self._seal(bound, directory.parent).facts
                    bound.validate(other)
                    assert self.picture(bound.recover(other)) == self.picture(state)

    def test_an_aborted_transfer_fails_and_leaves_nothing(self) -> None:
        """After any number of chunks the abort comes through, no file stays open, and the next one works."""
        with self._place() as place:
            bound, state = self._bound(), self.state(5_000)
            directory = self._write(bound, place / "one", state)
            data = b"".join(bound.read_chunks(directory, bound.context()))
            chunks = [data[at : at + 997] for at in range(0, len(data), 997)]
            opened = self._open_files()
            for count in range(len(chunks) + 1):
                other = state_path(str(place / f"aborted-{count}"))
                other.mkdir(parents=True)
                with contextlib.suppress(_Aborted):
                    self.module().accept_chunks(other, _abort_after(chunks[:count]))
                    raise AssertionError("accept_chunks has returned from an aborted transfer")
                reading = bound.read_chunks(directory, bound.context())
                next(reading)
                reading.close()  # type: ignore[attr-defined]  # a generator of Barque's
                assert self._open_files() <= opened, "a file is open after an aborted transfer"
                assert [path.name for path in other.parent.iterdir()] == [STATE]
            other = state_path(str(place / "at last"))
            other.mkdir(parents=True)
            bound.accept_chunks(other, iter(chunks))
            assert self.picture(bound.recover(other)) == self.picture(state)

    def test_a_transfer_takes_little_memory(self) -> None:
        """Each chunk has 1 byte to 1 MiB, and neither end holds half of a state of 16 MiB."""
        with self._place() as place:
            bound = self._bound()
            directory = self._write(bound, place / "one", self.state(self._LARGE))
            other = state_path(str(place / "other"))
            other.mkdir(parents=True)
            tracemalloc.start()
            try:
                bound.accept_chunks(other, bound.read_chunks(directory, bound.context()))
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert peak <= self._MEMORY_BYTES_MAX, f"{peak:,} bytes of memory"


class _Aborted(Exception):
    """The transfer is over before its end."""


def _abort_after(chunks: Sequence[bytes]) -> Iterator[bytes]:
    yield from chunks
    raise _Aborted
