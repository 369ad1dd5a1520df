"""Snapshot modules for tests: a plain one, and one planted fault each."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import barque
from barque.types import Index, IndexTerm, Term

Notes = dict[str, str]


class FileModule(barque.SnapshotModule[Notes]):
    """Keeps notes in two files: one with their number, one with a line for each."""

    name = "files"
    version = 2

    def prepare(self, position: IndexTerm, state: Notes) -> Notes:
        """A shallow copy: the values never change."""
        return dict(state)

    def write(self, directory: Path, position: IndexTerm, capture: Notes) -> None:
        """A line for each note."""
        (directory / "count").write_text(str(len(capture)))
        with (directory / "notes").open("w") as file:
            for key, value in sorted(capture.items()):
                file.write(json.dumps([key, value]) + "\n")

    def read_meta(self, directory: Path) -> dict[str, Any]:
        """How many notes there are."""
        return {"notes": int((directory / "count").read_text())}

    def validate(self, directory: Path) -> None:
        """The lines are as many as they should be."""
        with (directory / "notes").open() as file:
            found = sum(1 for _ in file)
        if found != self.read_meta(directory)["notes"]:
            raise ValueError(f"{found} notes")

    def recover(self, directory: Path, args: dict[str, Any]) -> Notes:
        """Read the lines."""
        with (directory / "notes").open() as file:
            return dict(json.loads(line) for line in file)


class Raises(FileModule):
    """Raises in the callback of this name."""

    def __init__(self, callback: str) -> None:
        def fail(*_args: Any) -> Any:
            raise RuntimeError(f"no {callback} today")

        setattr(self, callback, fail)


class WritesNothing(FileModule):
    """Returns without a file."""

    def write(self, directory: Path, position: IndexTerm, capture: Notes) -> None:
        """Nothing."""


class WritesOutside(FileModule):
    """Leaves something beside its directory."""

    def write(self, directory: Path, position: IndexTerm, capture: Notes) -> None:
        """One file too many."""
        super().write(directory, position, capture)
        (directory.parent / "mine").write_text("x")


class WritesLink(FileModule):
    """Has a link where a file should be."""

    def write(self, directory: Path, position: IndexTerm, capture: Notes) -> None:
        """A link to elsewhere."""
        super().write(directory, position, capture)
        (directory / "elsewhere").symlink_to("/etc/hostname")


class WritesDirectory(FileModule):
    """Has a directory in its directory."""

    def write(self, directory: Path, position: IndexTerm, capture: Notes) -> None:
        """A directory."""
        super().write(directory, position, capture)
        (directory / "more").mkdir()


class YieldsEmpty(FileModule):
    """Reads out a chunk without a byte."""

    def read_chunks(self, directory: Path, context: dict[str, Any]) -> Iterator[bytes]:
        """One of them is empty."""
        yield from super().read_chunks(directory, context)
        yield b""


class YieldsHuge(FileModule):
    """Reads out more at once than is allowed."""

    def read_chunks(self, directory: Path, context: dict[str, Any]) -> Iterator[bytes]:
        """Two MiB."""
        yield bytes(2 << 20)


class AcceptsNothing(FileModule):
    """Returns before it has read anything."""

    def accept_chunks(self, directory: Path, chunks: Iterator[bytes]) -> None:
        """The first state of all, whatever comes."""
        self.write(directory, IndexTerm(Index(0), Term(0)), {})


class SwallowsErrors(FileModule):
    """Takes an aborted transfer for a complete one."""

    def accept_chunks(self, directory: Path, chunks: Iterator[bytes]) -> None:
        """Whatever comes."""
        try:
            super().accept_chunks(directory, chunks)
        except Exception:
            (directory / "count").write_text("0")
            (directory / "notes").write_text("")


class CapturesByReference(FileModule):
    """Writes what the state has become meanwhile."""

    def prepare(self, position: IndexTerm, state: Notes) -> Notes:
        """No copy."""
        return state


class FactsDiffer(FileModule):
    """Says something else each time."""

    calls = 0

    def read_meta(self, directory: Path) -> dict[str, Any]:
        """A number that grows."""
        self.calls += 1
        return {"notes": super().read_meta(directory)["notes"], "calls": self.calls}


class FactsOfThePlace(FileModule):
    """Says where the files lie, which differs from member to member."""

    def read_meta(self, directory: Path) -> dict[str, Any]:
        """The directory."""
        return {"notes": super().read_meta(directory)["notes"], "at": str(directory)}


class RecoverWrites(FileModule):
    """Changes what it reads."""

    def recover(self, directory: Path, args: dict[str, Any]) -> Notes:
        """With a lock file."""
        (directory / "lock").write_text("")
        return super().recover(directory, args)


class KeepsFilesOpen(FileModule):
    """Never closes what it reads out."""

    def __init__(self) -> None:
        self.open: list[int] = []

    def __del__(self) -> None:
        """Not before the test is over."""
        for descriptor in self.open:
            os.close(descriptor)

    def read_chunks(self, directory: Path, context: dict[str, Any]) -> Iterator[bytes]:
        """One file is left open for each call."""
        self.open.append(os.open(directory / "count", os.O_RDONLY))
        yield from super().read_chunks(directory, context)


class ReadsAllAtOnce(FileModule):
    """Holds the whole state in memory to send it."""

    def read_chunks(self, directory: Path, context: dict[str, Any]) -> Iterator[bytes]:
        """Everything, then in pieces."""
        everything = b"".join(super().read_chunks(directory, context))
        for start in range(0, len(everything), 1 << 16):
            yield everything[start : start + (1 << 16)]


class ForgetsOne(FileModule):
    """Loses a note."""

    def recover(self, directory: Path, args: dict[str, Any]) -> Notes:
        """All but one."""
        found = super().recover(directory, args)
        if found:
            found.popitem()
        return found


class Nameless(FileModule):
    """Has no name."""

    name = ""


class Blocks(FileModule):
    """Writes when the test says so."""

    def __init__(self) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()

    def write(self, directory: Path, position: IndexTerm, capture: Notes) -> None:
        """Wait first."""
        self.entered.set()
        self.go_on.wait()
        super().write(directory, position, capture)


BAD: list[Callable[[], FileModule]] = [
    *(lambda name=name: Raises(name) for name in ("prepare", "write", "recover", "validate", "read_meta")),
    *(lambda name=name: Raises(name) for name in ("context", "read_chunks", "accept_chunks")),
    *(WritesNothing, WritesOutside, WritesLink, WritesDirectory, YieldsEmpty, YieldsHuge, AcceptsNothing),
    *(SwallowsErrors, CapturesByReference, FactsDiffer, FactsOfThePlace, RecoverWrites, KeepsFilesOpen),
    *(ReadsAllAtOnce, ForgetsOne, Nameless),
]
"""A module for each fault that the conformance suite must find."""


class NoteMachine(barque.Machine[Notes]):
    """Keeps notes, in place, with a module of the test's choice, and asks for a snapshot after each."""

    command_type = tuple[str, str]

    def __init__(self, module: barque.SnapshotModule[Notes] | None, *, asks: bool = True) -> None:
        self.module = module
        self.asks = asks
        self.applied = 0

    def init(self, args: dict[str, Any]) -> Notes:
        """No notes."""
        return {}

    def apply(self, meta: barque.CommandMeta, command: Any, state: Notes) -> barque.Result[Notes]:
        """Take a note; the reply is its index."""
        if not isinstance(command, tuple):
            return state, None  # one of Barque's own commands
        self.applied += 1
        key, value = command
        state[key] = value
        return state, meta.index, [barque.ReleaseCursor(meta.index, state)] if self.asks else []

    def query(self, query: Any, state: Notes) -> Notes:
        """All notes."""
        return state

    def snapshot_module(self) -> barque.SnapshotModule[Notes] | None:
        """That of the test."""
        return self.module
