"""The documentation is true: its programs run, its commands work, and the functions it names exist."""

import asyncio
import contextlib
import importlib
import inspect
import re
import shlex
import sys
import typing
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import FrameType

import click
import msgspec
import pytest

import barque
from barque.cli import verbs as cli
from barque.client.local import NodeSubmitter
from barque.gateways.resp.server import RespServer
from barque.machine.kv_commands import Set
from tests.documents import ROOT, blocks, complaints, python_blocks, read_along, run_fragment
from tests.nodes import SECRET, Nodes, nodes, until
from tests.ports import free_ports

LIFE = ROOT / "docs/explanation/life-of-a-command.md"
RUN_AS_WRITTEN = (
    "docs/tutorial/first-machine.md",
    "docs/tutorial/1-a-counter.md",
    "docs/tutorial/2-a-machine.md",
    "docs/tutorial/3-tests.md",
    "docs/tutorial/4-timers.md",
    "docs/tutorial/5-snapshots-and-versions.md",
    "docs/how-to/pipeline-commands.md",
    "docs/how-to/recover-from-a-machine-fault.md",
    "docs/how-to/upgrade-a-machine.md",
    "docs/how-to/use-an-aux-machine.md",
    "docs/how-to/read-the-log.md",
    "docs/how-to/bring-your-own-snapshot-store.md",
    "docs/how-to/test-my-machine.md",
    "docs/how-to/write-a-machine-as-a-class.md",
    "docs/operations/metrics.md",
)
"""Pages whose every block a reader can carry out, from the first line to the last."""
RUN_AT_AN_INSTALLATION = (
    "docs/reference/api.md",
    "docs/how-to/change-members.md",
    "docs/how-to/redis-clients.md",
)
"""Pages whose Python a reader runs beside nodes n1 to n4, with a cluster `kv` on three of them."""


def pages() -> list[Path]:
    """All pages, and the files of the root that people read."""
    return [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "bench/README.md")),
        *(page for page in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in page.parts),
    ]


def pages_with_python() -> list[str]:
    """Every page with Python in it."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    names = [str(page.relative_to(ROOT)) for page in pages if "_build" not in page.parts]
    return [name for name in names if python_blocks(name)]


def changed_ports() -> dict[str, str]:
    """Free ports in the place of those that the pages name."""
    first = free_ports(6)
    return {str(port): str(first + i) for i, port in enumerate((7501, 7502, 7503, 7601, 7602, 7603))}


@pytest.mark.processes
@pytest.mark.xdist_group("verbs")
@pytest.mark.parametrize("page", RUN_AS_WRITTEN)
def test_a_page_runs_as_written(page: str, tmp_path: Path) -> None:
    """A reader who does what the page says, from the first line to the last, sees what the page shows."""
    read_along(page, tmp_path, changed_ports())


@pytest.mark.parametrize("page", pages_with_python())
def test_python_on_a_page_compiles_and_names_what_exists(page: str) -> None:
    """Every Python block compiles; its names are bound on the page, and those of Barque exist."""
    known: set[str] = set()
    found = [complaint for block in python_blocks(page) for complaint in complaints(block, known)]
    assert found == [], "\n".join(found)


@pytest.mark.parametrize("page", RUN_AT_AN_INSTALLATION)
async def test_python_on_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python blocks of a page run in their order, at an installation such as the page supposes."""
    monkeypatch.chdir(tmp_path)
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    kv = barque.ClusterConfig(name="kv", machine="kv", members=("n1", "n2", "n3"))
    async with nodes(tmp_path, 4, clusters=(kv,)) as running:
        gateway = RespServer(NodeSubmitter(running.running["n1"]), bind="127.0.0.1:0")
        await gateway.start()
        ports = [address.rpartition(":")[2] for address in running.addresses.values()]
        changed = {"7401": ports[0], "7402": ports[1], "6379": str(gateway.address[1])}
        namespace: dict[str, object] = {"__name__": "__main__"}
        try:
            for block in python_blocks(page):
                await run_fragment(block, namespace, changed)
        finally:
            for opened in namespace.values():
                if hasattr(opened, "connection_pool"):
                    opened.close()
            await gateway.stop()


def test_the_page_for_users_of_ra_names_what_exists() -> None:
    """Each name in its right columns is a method, a class, a verb or a setting."""
    page = (ROOT / "docs/how-to/coming-from-ra.md").read_text()
    owners = {"Client": barque.Client, "Node": barque.Node, "Machine": barque.Machine, "barque": barque}
    named = re.findall(r"`(Client|Node|Machine|barque)\.(\w+)", page)
    assert len(named) > 60
    assert [f"{owner}.{name}" for owner, name in named if not hasattr(owners[owner], name)] == []
    verbs = re.findall(r"`barque ([a-z-]+)(?: ([a-z-]+))?`", page)
    assert len(verbs) > 10
    for verb, word in verbs:
        command = cli.barque.get_command(click.Context(cli.barque), verb)
        assert command is not None, verb
        if word:
            assert isinstance(command, click.Group), verb
            assert command.get_command(click.Context(command), word) is not None, f"{verb} {word}"
    configuration = (ROOT / "docs/reference/configuration.md").read_text()
    settings = page.partition("## Settings")[2]
    told = [name for row in settings.splitlines()[3:] for name in re.findall(r"(\w+)`", row.split("|")[2])]
    assert [name for name in told if f"| `{name}`" not in configuration] == []


def test_the_configuration_page_lists_every_setting() -> None:
    """Each field of a node's configuration has a row, with the default that it has."""
    page = (ROOT / "docs/reference/configuration.md").read_text()
    rows = {row.split("`")[1]: row for row in page.splitlines() if row.startswith("| `")}
    for kind in (
        barque.NodeConfig,
        barque.RespConfig,
        barque.HttpConfig,
        barque.ClusterConfig,
        barque.TimeConfig,
        barque.LogConfig,
        barque.SnapshotsConfig,
        barque.TlsConfig,
    ):
        for field in msgspec.structs.fields(kind):
            if field.name in ("resp", "http", "time", "log", "snapshots", "tls", "servers"):
                continue  # tables of their own
            row = rows.get(field.name) or rows.get(f"resp.{field.name}")
            assert row is not None, f"{kind.__name__}.{field.name} is not on the page"
            if isinstance(field.default, int) and not isinstance(field.default, bool):
                assert f"| {field.default} |" in row, row


async def test_the_metrics_page_lists_what_a_node_tells(tmp_path: Path) -> None:
    """Every figure in a node's status, and every counter of a member, is on the page."""
    page = re.sub(r"```.*?```", "", (ROOT / "docs/operations/metrics.md").read_text(), flags=re.DOTALL)
    words = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", page))))
    async with nodes(tmp_path, 2) as running, running.client() as client:
        await client.start_cluster("sums", "adder")
        status = await client.status()
        member = await client.overview("sums")
    node = next(node for node in status.nodes if node.storage)
    told = {
        *node.storage,
        *node.storage["meta"],
        *node.requests,
        *node.transport,
        *member.counters,
        *member.log,
    }
    for links in (node.peers, node.detector):
        told |= {field for link in links.values() for field in link}
    assert len(told) > 60
    assert told - words == set(), "docs/operations/metrics.md lacks these"


def test_the_page_of_effects_lists_each_effect() -> None:
    """Its table tells of every effect who performs it."""
    table = re.findall(r"^\| (`.*?) \|", (ROOT / "docs/reference/effects.md").read_text(), re.MULTILINE)
    listed = {name for cell in table for name in re.findall(r"`(\w+)", cell)}
    assert listed == {effect.__name__ for effect in typing.get_args(barque.MachineEffect)}


# --- command lines ---------------------------------------------------------------------------


def command_lines(page: Path) -> list[str]:
    """The commands `barque …` in the blocks of a page, without comments."""
    found = []
    for block in blocks(str(page.relative_to(ROOT))):
        if block.language in ("console", "text"):
            for line in block.text.splitlines():
                command = re.split(r"\s{2,}|\s+#|\s+2?>", line.strip().removeprefix("$ "))[0]
                if re.match(r"(python -m )?barque [a-z]+", command) and "," not in command.split()[1]:
                    found.append(command.removeprefix("python -m "))
    return found


@pytest.mark.parametrize(
    "page", [page for page in pages() if command_lines(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_command_lines_of_a_page_are_understood(page: Path) -> None:
    """Every `barque …` on a page names a verb that exists, with options that it has."""
    for line in command_lines(page):
        command: click.Command = cli.barque
        context = click.Context(command)
        words = shlex.split(line)[1:]
        while words and isinstance(command, click.Group):
            if words[0].startswith("-") or (below := command.get_command(context, words[0])) is None:
                assert command.invoke_without_command, f"{line}: no such verb"
                break
            command, words = below, words[1:]
        options = {option for parameter in command.params for option in parameter.opts}
        for word in words:
            if word.startswith("-") and word != "-":
                assert word.split("=")[0] in options, f"{line}: no such option as {word}"


def test_the_command_line_page_lists_every_verb() -> None:
    """Each verb, and each verb below it, is on the page."""
    page = (ROOT / "docs/reference/cli.md").read_text()
    context = click.Context(cli.barque)
    for verb in cli.barque.list_commands(context):
        command = cli.barque.get_command(context, verb)
        assert f"`barque {verb}" in page, verb
        for below in command.list_commands(context) if isinstance(command, click.Group) else ():
            assert re.search(rf"`(barque {verb} )?{below}\b", page), f"{verb} {below}"


# --- links and paths ---------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The headings of a page, as links name them."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    """Every relative link names a file, and its anchor a heading; every path of the repository exists."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", text):
        other = (page.parent / target).resolve() if target else page
        assert other.exists(), f"no such file: {target}"
        assert not anchor or anchor in anchors(other), f"no such heading: {target}#{anchor}"
    for path in re.findall(r"`((?:tests|bench|examples|docs|src)/[\w/.-]+)(?:::\w+)?`", text):
        if not path.startswith(("bench/results", "bench/.peers")):  # made by a measurement
            places = (ROOT / path, ROOT / "tests" / path)  # the parity page begins below tests/
            assert any(place.exists() for place in places), f"no such path: {path}"


def test_every_page_is_in_the_index() -> None:
    """A reader who begins at docs/index.md finds every page."""
    index = (ROOT / "docs/index.md").read_text()
    names = [
        str(page.relative_to(ROOT / "docs").with_suffix(""))
        for page in pages()
        if page.is_relative_to(ROOT / "docs")
    ]
    missing = [name for name in names if not re.search(rf"^{name}$", index, re.MULTILINE)]
    assert [name for name in missing if name != "index" and not name.startswith("decisions/0")] == []


# --- the functions that pages name -----------------------------------------------------------


def resolve(name: str) -> object:
    """The function or class of this dotted name below `barque`. Raises if there is none."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        with contextlib.suppress(ModuleNotFoundError):
            found: object = importlib.import_module(".".join(["barque", *parts[:end]]))
            for attribute in parts[end:]:
                found = getattr(found, attribute)
            return found
    raise ModuleNotFoundError(name)


def test_functions_in_the_life_of_a_command_exist() -> None:
    """Every dotted name on the page leads to a function or class."""
    names = named_functions(LIFE.read_text())
    assert len(names) > 80
    for name in names:
        assert callable(resolve(name)), name


def test_the_places_that_answer_exist() -> None:
    """The architecture page names files and functions, and each function is in its file."""
    page = (ROOT / "docs/explanation/architecture.md").read_text()
    rows = re.findall(r"^\| [^|]+\? \| (.+) \| (.+) \|$", page, re.MULTILINE)
    assert len(rows) >= 15
    for files, functions in rows:
        modules: list[str] = []
        for name in re.findall(r"`([\w/.]+)`", f"{files} {functions}"):
            if name.endswith(".py"):
                modules.append(name.removesuffix(".py").replace("/", "."))
            elif not re.fullmatch("[A-Z]+", name):
                assert any(has(module, name) for module in modules), f"{name} is not in {modules}"


def has(module: str, name: str) -> bool:
    """Whether a module has this function, or class and method, as its own."""
    try:
        found = resolve(f"{module}.{name}")
    except AttributeError:
        return False
    return getattr(found, "__module__", None) == f"barque.{module}"


def test_the_phases_of_the_turn_are_as_the_page_says() -> None:
    """The page lists the phases of a node's turn in the order in which the turn runs them."""
    page = (ROOT / "docs/explanation/architecture.md").read_text()
    shown = re.findall(r"^\| `(_\w+)` \|", page, re.MULTILINE)
    called = re.findall(r"self\.(_\w+)\(\)", inspect.getsource(barque.Node._turn))
    assert shown == [name for name in called if name != "_await_deadline"]


async def test_a_redis_set_takes_the_way_of_the_page(tmp_path: Path) -> None:
    """A SET on the leader's node calls the functions that the page names, in the page's order."""
    async with traced_nodes(tmp_path) as (running, leader):
        gateway = RespServer(NodeSubmitter(running.running[leader]), bind="127.0.0.1:0")
        await gateway.start()
        reader, writer = await asyncio.open_connection(*gateway.address)
        with calls() as made:
            writer.write(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n")
            assert await reader.readline() == b"+OK\r\n"
        writer.close()
        await gateway.stop()
    assert_in_order(made, section("A Redis SET on the leader's node").partition("The followers learn")[0])


async def test_a_client_s_command_takes_the_way_of_the_page(tmp_path: Path) -> None:
    """A command through a follower's node calls the functions that the page names, in the page's order."""
    async with traced_nodes(tmp_path) as (running, leader):
        other = next(name for name in running.addresses if name != leader)
        async with running.client(other) as client:
            await client.ping()
            with calls() as made:
                await client.process_command("kv", Set(b"key", b"value"))

            async def connected() -> bool:
                return leader in client._router._connections  # type: ignore[attr-defined]  # it is a `Router`

            await until(
                connected, "the client to have connected to the leader's node, which it does by itself"
            )
    assert_in_order(made, section("A client's command through another node"))


@contextlib.asynccontextmanager
async def traced_nodes(directory: Path) -> AsyncIterator[tuple[Nodes, str]]:
    """Three nodes with a cluster `kv` whose logs are written on the loop, and the leader's node."""
    kv, log = barque.ClusterConfig(name="kv", machine="kv"), barque.LogConfig(writer="inline")
    async with nodes(directory, 3, clusters=(kv,), log=log) as running:
        async with running.client() as client:
            await client.process_command("kv", Set(b"first", b""))
            leader = await running.leader(client, "kv")
        yield running, leader


@contextlib.contextmanager
def calls() -> Iterator[list[str]]:
    """The functions of Barque that are called meanwhile, in order."""
    made: list[str] = []

    def note(frame: FrameType, event: str, _argument: object) -> None:
        module = str(frame.f_globals.get("__name__", ""))
        if event == "call" and module.startswith("barque."):
            made.append(f"{module.removeprefix('barque.')}.{frame.f_code.co_qualname}")

    sys.setprofile(note)
    try:
        yield made
    finally:
        sys.setprofile(None)


def section(title: str) -> str:
    """One section of the page, up to the next of its level."""
    return LIFE.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def named_functions(text: str) -> list[str]:
    """The dotted names in code, in order."""
    return [name for name in re.findall(r"`([\w.]+)`", text) if name.count(".") >= 2]


def assert_in_order(made: list[str], text: str) -> None:
    """The functions that a text names were called in this order, whatever was called between them."""
    position = 0
    for name in named_functions(text):
        assert name in made, f"{name} was not called"
        assert name in made[position:], f"{name} was called, but before the function named ahead of it"
        position = made.index(name, position)
