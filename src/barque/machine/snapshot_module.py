"""A machine's own way to keep snapshots: Ra's `ra_snapshot` in Python's shape (SNAP-04, MAC-09).

Theory of operation. A machine whose state does not fit through `capture` and `restore`, because it lives in
files already, returns a `SnapshotModule` from `Machine.snapshot_module`. The module fills one directory for
each snapshot and makes a state of it again. Everything that the log's safety depends on stays with Barque:

- where the directory is, when it gets its name, when its files are synced, and which snapshot counts;
- the file beside the directory, with position, members, time, surviving entries, and size and checksum of
  each of the module's files: a start reads them all, and needs no code of the module for it;
- the transfer: chunks, their checksums, repetition and back-off.

`prepare` runs on the loop, at the effect. All else runs in a thread of its own, which the modules of a data
directory share: a module that blocks holds up other modules' snapshots and nothing else. `recover` also runs
at a start, where the server waits for it.

An error of a module is a failed snapshot, never a stopped server: the log keeps its entries, and the message
names machine, module and callback. Only `prepare` is as much a part of applying as `capture` is.
"""

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

from barque.errors import StorageError
from barque.types import IndexTerm, is_valid_name

State = TypeVar("State")

CHUNK_BYTES_MAX = 1 << 20
"""How much a module may read out at once."""

FACTS_BYTES_MAX = 65_536
"""How much `read_meta` and `context` may return, encoded with msgpack."""

_decode_facts = msgspec.msgpack.Decoder(dict[str, Any]).decode
_FILE = struct.Struct("<HQ")  # length of the name, size of the file


class SnapshotModule(Generic[State]):
    """Keeps states of one machine in directories of files. Subclass it; `SnapshotModuleSuite` tests it.

    `name` goes into each snapshot, with `version`: a snapshot is read by a module of the same name whose
    version is as high or higher. Raise `version` when older code cannot read what newer code writes.

    A directory holds regular files only, at most 4,096, with names as those of servers: no links, no
    directories. Once `write` or `accept_chunks` has returned, nothing in it may ever change: a state that is
    read from it must keep none of its files open.
    """

    name: ClassVar[str] = ""
    version: ClassVar[int] = 1

    def prepare(self, position: IndexTerm, state: State) -> Any:
        """Capture the state as it is after this entry, cheaply: `apply` goes on when this returns.

        Runs on the loop. What it returns goes to `write`, and nowhere else. An exception stops the server.
        """
        raise NotImplementedError(f"{type(self).__name__} must define prepare")

    def write(self, directory: Path, position: IndexTerm, capture: Any) -> None:
        """Write a capture into an empty directory, in bounded memory. Barque syncs the files afterwards."""
        raise NotImplementedError(f"{type(self).__name__} must define write")

    def recover(self, directory: Path, args: dict[str, Any]) -> State:
        """Make the state of a directory, which must not change. `args` are those of `Machine.init`."""
        raise NotImplementedError(f"{type(self).__name__} must define recover")

    def validate(self, directory: Path) -> None:
        """Raise if these files are no state. Barque has compared their checksums already."""

    def read_meta(self, directory: Path) -> dict[str, Any]:
        """Facts about the state, for operators: `barque snapshot inspect` shows them.

        The same state must give the same facts on every member: after a transfer they are compared.
        """
        return {}

    def context(self) -> dict[str, Any]:
        """Whatever a sender must know of this receiver: `read_chunks` gets it there (Ra's `context/0`)."""
        return {}

    def read_chunks(self, directory: Path, context: dict[str, Any]) -> Iterator[bytes]:
        """Read a state out for another member, in chunks of 1 byte to 1 MiB.

        This is Ra's `begin_read` and `read_chunk`; `context` is the receiver's. The iterator is closed if the
        transfer ends early. The default reads the files, one after the other.
        """
        for path in sorted(directory.iterdir()):
            with path.open("rb") as file:
                name = path.name.encode()
                yield _FILE.pack(len(name), path.stat().st_size) + name
                while data := file.read(CHUNK_BYTES_MAX):
                    yield data

    def accept_chunks(self, directory: Path, chunks: Iterator[bytes]) -> None:
        """Make files in an empty directory of what `read_chunks` gave elsewhere; read all of it.

        This is Ra's `begin_accept`, `accept_chunk` and `complete_accept`. The bytes and their order are the
        sender's; where one chunk ends is not. If the transfer is aborted, the next chunk raises; let it pass.
        """
        stream = _Stream(chunks)
        while not stream.is_at_end():
            length, size = _FILE.unpack(stream.take(_FILE.size))
            name = stream.take(length).decode()
            if not is_valid_name(name):
                raise ValueError(f"no file of a snapshot is called {name!r}")
            with (directory / name).open("xb") as file:
                while size:
                    data = stream.take(min(size, CHUNK_BYTES_MAX))
                    file.write(data)
                    size -= len(data)


class _Stream:
    """Bytes in parts of any size, as a stream."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._held = bytearray()

    def is_at_end(self) -> bool:
        """Whether everything was taken."""
        return not self._held and not self._fill()

    def take(self, size: int) -> bytes:
        """The next bytes. Raises `ValueError` if there are fewer."""
        while len(self._held) < size:
            if not self._fill():
                raise ValueError("the chunks end inside a file")
        data = bytes(memoryview(self._held)[:size])
        del self._held[:size]
        return data

    def _fill(self) -> bool:
        chunk = next(self._chunks, None)
        self._held += chunk or b""
        return chunk is not None


class BoundModule:
    """The module of one machine with this machine's arguments. Errors name both, and the callback.

    All methods but `prepare` raise `StorageError` for whatever the module raises.
    """

    def __init__(self, machine: str, module: SnapshotModule[Any], args: dict[str, Any]) -> None:
        self.machine = machine
        self._module = module
        self._args = args
        self.name, self.version = module.name, module.version
        if not (is_valid_name(self.name) and type(self.version) is int and self.version >= 0):
            raise ValueError(f"{type(module).__name__} needs a `name`, and a `version` that is a number")

    def __str__(self) -> str:
        return f"machine {self.machine}, snapshot module {self.name!r} version {self.version}"

    @contextlib.contextmanager
    def _calling(self, callback: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise StorageError(f"{self}: {callback}: {error!r}") from error

    def prepare(self, position: IndexTerm, state: Any) -> "ModuleCapture":
        """The state as of now. Raises what the module raises."""
        return ModuleCapture(self, position, self._module.prepare(position, state))

    def write(self, directory: Path, position: IndexTerm, capture: Any) -> None:
        """See `SnapshotModule.write`."""
        with self._calling("write"):
            self._module.write(directory, position, capture)

    def facts(self, directory: Path) -> bytes:
        """What `read_meta` returns, encoded with its keys in order."""
        with self._calling("read_meta"):
            return _encoded(self._module.read_meta(directory))

    def context(self) -> bytes:
        """What `context` returns, encoded."""
        with self._calling("context"):
            return _encoded(self._module.context())

    def validate(self, directory: Path) -> None:
        """See `SnapshotModule.validate`."""
        with self._calling("validate"):
            self._module.validate(directory)

    def read_chunks(self, directory: Path, context: bytes) -> Iterator[bytes]:
        """See `SnapshotModule.read_chunks`; each chunk is checked."""
        with self._calling("read_chunks"):
            chunks = self._module.read_chunks(directory, _decode_facts(context))
            try:
                for chunk in chunks:
                    if not isinstance(chunk, bytes):
                        raise TypeError(f"a chunk is a {type(chunk).__name__}, not bytes")
                    if not 0 < len(chunk) <= CHUNK_BYTES_MAX:
                        raise ValueError(f"a chunk has {len(chunk)} bytes, not 1 to {CHUNK_BYTES_MAX}")
                    yield chunk
            finally:
                if isinstance(chunks, Iterator) and hasattr(chunks, "close"):
                    chunks.close()

    def accept_chunks(self, directory: Path, chunks: Iterator[bytes]) -> None:
        """See `SnapshotModule.accept_chunks`. What is wrong with the chunks is raised as it is."""
        watched = _Watched(chunks)
        try:
            with self._calling("accept_chunks"):
                self._module.accept_chunks(directory, watched)
        finally:
            if watched.failure is not None:
                raise watched.failure
        if next(chunks, None) is not None:
            raise StorageError(f"{self}: accept_chunks: it returned before the last chunk")

    def recover(self, directory: Path) -> Any:
        """See `SnapshotModule.recover`."""
        with self._calling("recover"):
            return self._module.recover(directory, dict(self._args))


class ModuleCapture(msgspec.Struct, frozen=True):
    """A state that a module has captured, and will write."""

    bound: BoundModule
    position: IndexTerm
    capture: Any

    def write(self, directory: Path) -> None:
        """Write it into an empty directory. Raises `StorageError`."""
        self.bound.write(directory, self.position, self.capture)


class _Watched:
    """An iterator that remembers why it failed, whatever its user makes of that."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self.failure: Exception | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self.failure is not None:
            raise self.failure
        try:
            return next(self._chunks)
        except StopIteration:
            raise
        except Exception as error:
            self.failure = error
            raise


def _encoded(facts: Any) -> bytes:
    if not isinstance(facts, dict) or not all(isinstance(key, str) for key in facts):
        raise TypeError(f"a {type(facts).__name__}, not a dict with names")
    encoded = msgspec.msgpack.encode(facts, order="deterministic")
    if len(encoded) > FACTS_BYTES_MAX:
        raise ValueError(f"{len(encoded)} bytes, more than {FACTS_BYTES_MAX}")
    return encoded
