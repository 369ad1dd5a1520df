"""A snapshot that a user's module reads out while it is sent (`core.log_contract.Outgoing`).

The module's code runs in the worker of modules. It is one chunk ahead of the transfer: the chunk in flight
and the one behind it are what it costs in memory, whatever the module yields. While a chunk is being read,
`chunk` raises `NotReadyError`, and `ready` is called when it is there.
"""

from collections.abc import Callable, Iterator

from barque.core.entries import EntryBatch
from barque.core.log_contract import Accepts, NotReadyError
from barque.errors import StorageError
from barque.log.background import Job, Worker
from barque.log.module_files import encode_outgoing, state_path
from barque.log.snapshot_files import Kept
from barque.log.snapshot_transfer import ReadSparse, read_live
from barque.machine.snapshot_module import BoundModule
from barque.types import Index


class OutgoingModule:
    """See `core.log_contract.Outgoing`."""

    module = True

    def __init__(
        self,
        kept: Kept,
        chunk_bytes: int,
        read_sparse: ReadSparse,
        closed: Callable[["OutgoingModule"], None],
        reader: BoundModule,
        worker: Worker,
        ready: Callable[[], None],
    ) -> None:
        self.meta = kept.meta
        self.path = kept.path
        self._kept = kept
        self._chunk_bytes = chunk_bytes
        self._read_sparse = read_sparse
        self._on_close = closed
        self._reader = reader
        self._worker = worker
        self._ready = ready
        self._stream: Iterator[bytes] | None = None
        self._held = bytearray()
        self._sent: tuple[int, bytes, bool] = (0, b"", False)
        self._next: tuple[bytes, bool] | None = None
        self._failure: Exception | None = None
        self._closed = False

    def agree(self, accepts: Accepts) -> None:
        """See `Outgoing.agree`: the receiver needs the module that wrote this, in this version or a later."""
        record = self._kept.description.module
        assert record is not None
        if accepts.module != record.name or accepts.module_version < record.version:
            theirs = f"{accepts.module!r} version {accepts.module_version}" if accepts.module else "none"
            raise StorageError(f"{self._reader}: its snapshot is of {record}, and the receiver has {theirs}")
        if self._stream is None:
            chunks = self._reader.read_chunks(state_path(self.path), accepts.context)
            self._stream = encode_outgoing(self._kept.description, chunks)
            self._read_ahead()

    def _read_ahead(self) -> None:
        self._worker.submit(self._read(), self._taken)

    def _read(self) -> Job:
        """Read the next chunk of the stream, and see whether it is the last: in the worker."""
        assert self._stream is not None
        while len(self._held) <= self._chunk_bytes:
            if self._closed:
                break
            more = next(self._stream, None)
            if more is None:
                break
            self._held += more
            yield
        if self._closed:
            self._stream.close()  # type: ignore[attr-defined]  # a generator of ours
        data = bytes(memoryview(self._held)[: self._chunk_bytes])
        del self._held[: self._chunk_bytes]
        return data, not self._held

    def _taken(self, result: tuple[bytes, bool] | None, error: Exception | None) -> None:
        self._next, self._failure = result, error
        if not self._closed:
            self._ready()

    def chunk(self, number: int) -> tuple[bytes, bool] | None:
        """See `Outgoing.chunk`. Only the last chunk and the one behind it can be asked for."""
        sent, data, last = self._sent
        if number == sent:
            return data, last
        assert number == sent + 1, "chunks are asked for in their order"
        if last:
            return None
        if self._failure is not None:
            raise StorageError(str(self._failure) or repr(self._failure)) from self._failure
        if self._next is None:
            raise NotReadyError
        data, last = self._next
        self._sent, self._next = (number, data, last), None
        if not last:
            self._read_ahead()
        return data, last

    def live(self, after: Index, count: int) -> list[EntryBatch]:
        """See `Outgoing.live`."""
        return read_live(self._kept, after, count, self._read_sparse)

    def close(self) -> None:
        """See `Outgoing.close`. A chunk that is being read is the last one."""
        if self._closed:
            return
        self._closed = True
        if self._stream is not None:
            self._worker.submit(self._read(), lambda _result, _error: None)  # closes the module's iterator
        self._on_close(self)
