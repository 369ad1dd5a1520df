"""The programs in examples/ run, and do what they say; no command stops a machine that we show to users."""

import ast
import importlib.util
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import msgspec
import pytest

import barque
from barque.testing.conformance import SnapshotModuleSuite
from barque.types import NOBODY, Index, ReplyMode, Term
from tests.documents import ROOT, blocks
from tests.nodes import nodes
from tests.ports import free_port

EXAMPLES = ROOT / "examples"
MISTAKE = "# a mistake"
"""The comment of a machine that is wrong on purpose."""
META = barque.CommandMeta(Index(1), Term(1), 0, 1_700_000_000_000, NOBODY, ReplyMode.NOREPLY)
HOSTILE: tuple[Any, ...] = (
    *(None, True, "", "text", b"bytes", 1.5, float("nan"), float("inf"), -1, 2**63 - 1, 2**64 - 1, -(2**63)),
    *(
        [],
        [1],
        [None, None, None],
        {},
        {"a": 1},
        {1: 2},
        [[[[]]]],
        ["x" * 10_000],
        msgspec.msgpack.Ext(5, b""),
    ),
)


async def test_the_counter_counts_to_42(tmp_path: Path) -> None:
    """examples/counter.py forms a cluster, loses a node and still counts."""
    counter = load_example("counter")
    assert await counter.main(str(tmp_path), (free_port(), free_port(), free_port())) == 42


def load_example(name: str) -> Any:
    """The module of one example."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


SAID = {
    "locks": "first: True\nsecond: False\nsecond hears: you have backup\n",
    "leases": "ann: True\nbob: False\nbob: True\n",
    "work_queue": "put: kept\ntake: sweep\nput: given\nthe worker that waited got: wash\n",
    "settings": "now: {'colour': 'red'}\nheard: ['colour', 'blue']\n",
    "bank": "3 transfers, 2 failed: ann has 1\nin all: 10\n",
    "ids": "blocks: 1-100 101-200 201-300 301-400\ndifferent numbers: 400\n",
    "pipeline": "heard of 5000 commands; the last reply is 5000\n",
    "threads": "each total was seen once: True\n",
    "cache": "set: True\nget: b'red'\nabsent: None\n",
    "log_store": "last: b'199'\nfirst: b'written at the beginning'\nabsent: None\n",
    "audit": "committed: [3, 4, 5]\n",
}
"""What each program prints that needs no arguments."""


@pytest.mark.parametrize("name", SAID)
def test_an_example_does_what_it_says(name: str) -> None:
    """It runs as a process, as a reader would start it."""
    done = subprocess.run(
        [sys.executable, f"{name}.py"], cwd=EXAMPLES, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.returncode) == (SAID[name], 0), done.stderr


def test_the_inventory_catches_up_from_a_snapshot(tmp_path: Path) -> None:
    """examples/inventory.py as a process: three members with SQLite files, one of which missed everything."""
    ports = (free_port(), free_port(), free_port())
    program = f"import asyncio, inventory; print(asyncio.run(inventory.main({str(tmp_path)!r}, {ports})))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=EXAMPLES, capture_output=True, text=True, timeout=60, check=True
    )
    assert "taken, and left: 6\non the node that came back: {'item 3': 6}\n" in done.stdout
    assert "'item 19': 10" in done.stdout
    snapshots = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("snapshots/*/state/state.db")}
    assert snapshots == {"n1", "n2", "n3"}


class TestSqliteModule(SnapshotModuleSuite):
    """The module of examples/inventory.py passes the suite."""

    @pytest.fixture(autouse=True)
    def _machine(self) -> Iterator[None]:
        self.machine = load_example("inventory").Inventory()
        self.opened: list[Any] = []
        yield
        for state in self.opened:
            state.close()

    def module(self) -> Any:
        """That of one machine."""
        return self.machine.snapshot_module()

    def state(self, size: int) -> Any:
        """Items with long names."""
        state = self.machine.init({})
        state.execute("BEGIN")
        for number in range((size + 999) // 1_000):
            state.execute("INSERT INTO stock VALUES (?, 1)", (f"{number} {'x' * min(size, 1_000)}",))
        state.execute("COMMIT")
        return state

    def change(self, state: Any) -> None:
        """Another item."""
        self.machine.apply(META, ("add", "another", 3), state)

    def picture(self, state: Any) -> Any:
        """Every row."""
        self.opened.append(state)
        return self.machine.query(None, state)


# --- machines that we show ----------------------------------------------------------------------


class Shown(NamedTuple):
    """A machine on a page or in a program, and the source that it stands in."""

    where: str
    name: str
    source: str

    def make(self) -> barque.Machine[Any]:
        """Run the imports and classes of its source; make the machine."""
        tree = ast.parse(self.source)
        if not self.where.startswith("examples/"):  # a page also has commands of a client
            kept = (ast.Import, ast.ImportFrom, ast.ClassDef)
            tree.body = [node for node in tree.body if isinstance(node, kept) or _is_constant(node)]
        module = f"shown_{abs(hash(self.source))}"
        namespace: dict[str, Any] = {"__name__": module}
        sys.modules[module] = type(sys)(module)
        with patch.object(sys, "path", [str(EXAMPLES), *sys.path]):
            exec(compile(tree, self.where, "exec", dont_inherit=True), namespace)
        vars(sys.modules[module]).update(namespace)  # msgspec looks up annotations there
        made = namespace[self.name]()
        assert isinstance(made, barque.Machine)
        return made

    def words(self) -> list[str]:
        """All strings of its source: commands that come near to valid ones are made of these."""
        values = {n.value for n in ast.walk(ast.parse(self.source)) if isinstance(n, ast.Constant)}
        return sorted(value for value in values if isinstance(value, str) and len(value) < 20)


def _is_constant(node: ast.stmt) -> bool:
    """Whether this gives a name to a literal, such as `SEATS = ("a1", "a2")`."""
    if not isinstance(node, ast.Assign):
        return False
    try:
        ast.literal_eval(node.value)
    except ValueError:
        return False
    return True


def shown() -> Iterator[Shown]:
    """Every machine of the README, the pages and the examples."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    sources = [
        (str(block), block.text)
        for page in pages
        for block in blocks(str(page.relative_to(ROOT)))
        if block.language == "python" and "barque.Machine[" in block.text and MISTAKE not in block.text
    ]
    sources += [(str(path.relative_to(ROOT)), path.read_text()) for path in sorted(EXAMPLES.glob("*.py"))]
    for where, source in sources:
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        tree = compile(source, where, "exec", flags | ast.PyCF_ONLY_AST, dont_inherit=True)
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and "Machine[" in ast.unparse(node):
                yield Shown(where, node.name, ast.unparse(tree))


SHOWN = list(shown())


def commands(one: Shown, rng: random.Random) -> Iterator[Any]:
    """Hostile commands: values of all kinds, and arrays of these and of the words of the source."""
    yield from HOSTILE
    atoms = [*HOSTILE, *one.words(), *range(5), ["n1", 1, 1], ["n1", 1, 2]]
    for _ in range(60_000):  # so that some are valid: one in 2,500 for the pickiest machine
        yield [rng.choice(atoms) for _ in range(rng.randrange(1, 5))]


@pytest.mark.parametrize("one", SHOWN, ids=lambda one: f"{one.where}:{one.name}")
def test_s8_no_command_stops_a_machine_that_we_show(one: Shown) -> None:
    """S8: a hostile command is refused by its type or applied; `apply` never raises, whatever the state."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    machine = one.make()
    decoder = msgspec.msgpack.Decoder(machine.command_type)
    state, applied = machine.init({}), 0
    for command in commands(one, random.Random(seed)):
        try:
            decoded = decoder.decode(msgspec.msgpack.encode(command))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
        state = machine.apply(META, decoded, state)[0]
        applied += 1
    assert applied


def test_s8_the_machines_are_found() -> None:
    """S8: the README, the tutorial, four how-to pages and the program are among them."""
    places = {one.where.partition(":")[0] for one in SHOWN}
    assert {"README.md", "docs/tutorial/first-machine.md", "examples/counter.py"} <= places
    assert len(places) >= 7


@pytest.mark.parametrize("place", ["README.md", "examples/counter.py"])
async def test_s8_the_counter_survives_its_clients(tmp_path: Path, place: str) -> None:
    """S8: on three nodes, each hostile command is refused or counted, and the next good one is answered."""
    [one] = [one for one in SHOWN if one.where.startswith(place)]
    machines = {"counter": one.make()}
    async with nodes(tmp_path) as three, three.client() as client:
        await three.stop()
        await three.start(machines=machines)
        visits = client.cluster("visits")
        await visits.start_cluster("counter")
        refused = 0
        for command in HOSTILE:
            if type(command) is int:
                await visits.process_command(command % 1_000)
                continue
            with pytest.raises(barque.InvalidCommand):
                await visits.process_command(command)
            refused += 1
        assert refused > 10
        before = await visits.consistent_query()
        assert await visits.process_command(1) == before + 1
        [cluster] = (await client.status(["visits"])).clusters
        assert sorted(member.role for member in cluster.members) == ["follower", "follower", "leader"]
