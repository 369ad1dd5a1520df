"""A replicated SQLite database: the state is a file, and a snapshot of it is a copy that SQLite makes.

Each member has a working database of its own, which it fills anew at each start: from the newest snapshot,
and from the commands after it. So nothing of it needs to be synced. In WAL mode a reader of SQLite sees one
moment for as long as it likes: to capture the state is to begin a read, whatever the size.
"""

import asyncio
import contextlib
import shutil
import sqlite3
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

import barque
from barque.types import IndexTerm

SCHEMA = "CREATE TABLE stock (item TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID"
ADD = "INSERT INTO stock VALUES (?1, ?2) ON CONFLICT DO UPDATE SET count = count + ?2 RETURNING count"
TAKE = "UPDATE stock SET count = count - ?2 WHERE item = ?1 AND count >= ?2 RETURNING count"
Count = Annotated[int, msgspec.Meta(gt=0, le=10**9)]
Connection = sqlite3.Connection


class SqliteModule(barque.SnapshotModule[Connection]):
    """Keeps snapshots as SQLite files, `state.db`. `work` makes a path for a new working database."""

    name = "sqlite"

    def __init__(self, work: Callable[[], Path]) -> None:
        self._work = work

    def prepare(self, position: IndexTerm, state: Connection) -> Connection:
        """Begin to read on a connection of its own: it sees this moment, while commands go on."""
        [(_, _, file)] = state.execute("PRAGMA database_list")
        capture = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        capture.execute("BEGIN")
        capture.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        return capture

    def write(self, directory: Path, position: IndexTerm, capture: Connection) -> None:
        """Copy what the reader sees, 256 pages at a time."""
        with contextlib.closing(capture):
            _copy(capture, directory / "state.db")

    def recover(self, directory: Path, args: dict[str, Any]) -> Connection:
        """Copy a snapshot into a new working database: the snapshot's file must never change."""
        with contextlib.closing(_read_only(directory)) as kept:
            path = self._work()
            _copy(kept, path)
        return open_database(path)

    def validate(self, directory: Path) -> None:
        """Let SQLite look at every page."""
        with contextlib.closing(_read_only(directory)) as kept:
            [(found,)] = kept.execute("PRAGMA integrity_check")
        if found != "ok":
            raise ValueError(found)

    def read_meta(self, directory: Path) -> dict[str, Any]:
        """How many items there are; `barque snapshot inspect` shows it."""
        with contextlib.closing(_read_only(directory)) as kept:
            return {"items": kept.execute("SELECT count(*) FROM stock").fetchone()[0]}


def _read_only(directory: Path) -> Connection:
    return sqlite3.connect(f"file:{directory / 'state.db'}?immutable=1", uri=True)


def _copy(source: Connection, path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as target:
        source.backup(target, pages=256)
        target.execute("PRAGMA journal_mode = DELETE")  # one file, whatever the source has


def open_database(path: Path) -> Connection:
    """A working database. `check_same_thread`: a state may be recovered in another thread than it is used."""
    state = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    state.execute("PRAGMA journal_mode = WAL")
    state.execute("PRAGMA synchronous = OFF")
    return state


class Inventory(barque.Machine[Connection]):
    """What a warehouse has in stock."""

    command_type = tuple[Literal["add", "take"], str, Count]
    query_type = str | None

    def __init__(self) -> None:
        self._work = Path(tempfile.mkdtemp(prefix="inventory-"))
        weakref.finalize(self, shutil.rmtree, self._work, ignore_errors=True)
        self._made = 0
        self._module = SqliteModule(self._new_path)

    def _new_path(self) -> Path:
        self._made += 1
        return self._work / f"{self._made}.db"

    def snapshot_module(self) -> SqliteModule:
        """Let snapshots be SQLite files."""
        return self._module

    def init(self, args: dict[str, Any]) -> Connection:
        """An empty warehouse."""
        state = open_database(self._new_path())
        state.execute(SCHEMA)
        return state

    def apply(self, meta: barque.CommandMeta, command: Any, state: Connection) -> barque.Result[Connection]:
        """Put something in or take it out; the reply is what is left, or None if there is too little."""
        if not isinstance(command, tuple):
            return state, None  # one of Barque's own commands
        verb, item, count = command
        statement = ADD if verb == "add" else TAKE
        left = state.execute(statement, (item, count)).fetchone()
        return state, left and left[0], [barque.ReleaseCursor(meta.index, state)]

    def query(self, query: str | None, state: Connection) -> dict[str, int]:
        """The stock of one item, or of all."""
        return dict(state.execute("SELECT item, count FROM stock WHERE ?1 IS NULL OR item = ?1", (query,)))


async def main(data_dir: str, ports: tuple[int, int, int] = (7801, 7802, 7803)) -> dict[str, int]:
    """Fill a warehouse, let a node miss most of it, and see it catch up from a snapshot."""
    addresses = {f"n{i}": f"127.0.0.1:{port}" for i, port in enumerate(ports, start=1)}
    configs = [
        barque.NodeConfig(
            name=name,
            data_dir=f"{data_dir}/{name}",
            nodes=addresses,
            secret="only-an-example!",
            snapshots=barque.SnapshotsConfig(min_interval=50),
        )
        for name in addresses
    ]
    async with (
        barque.Node(configs[0], {"inventory": Inventory()}),
        barque.Node(configs[1], {"inventory": Inventory()}),
        barque.Node(configs[2], {"inventory": Inventory()}) as third,
        barque.Client(list(addresses.values()), secret="only-an-example!") as client,
    ):
        stock = client.cluster("stock")
        await stock.start_cluster("inventory")
        await third.stop()
        for number in range(200):
            await stock.process_command(["add", f"item {number % 20}", 1])
        print("taken, and left:", await stock.process_command(["take", "item 3", 4]))
        async with (
            barque.Node(configs[2], {"inventory": Inventory()}),
            barque.Client([addresses["n3"]], secret="only-an-example!") as beside,
        ):
            found: dict[str, int] = {}
            while found != {"item 3": 6}:  # the node's own member, without asking the leader
                await asyncio.sleep(0.05)
                found = await beside.local_query("stock", "item 3")
            print("on the node that came back:", found)
        everything: dict[str, int] = await stock.consistent_query()
        return everything


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(main(directory))
