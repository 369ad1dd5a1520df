"""Nothing is kept that could not be started again: names, members and arguments are checked first."""

import datetime
from pathlib import Path
from typing import Any

import pytest
from tests.directories import tree
from tests.machine.test_arguments import LOST
from tests.nodes import Adder, Nodes, ask_as_a_node, nodes

import barque
from barque.errors import BarqueError, ConfigurationError, InvalidCommand
from barque.transport.authorization import Role
from barque.transport.wire import ClientCommands, ClientQueries
from barque.types import ReplyMode

BAD_NAMES = [
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "-a",
    ".a",
    "a b",
    "a\0",
    "a\n",
    "ä",
    "x" * 65,
    "x" * 70_000,
    "a@n1",
]
START = {
    "cluster": "sum",
    "machine": "adder",
    "members": ["sum@n1"],
    "cluster_id": "RTEST",
    "uids": {"sum@n1": "SUM1"},
}
HOSTILE: dict[str, dict[str, Any]] = {
    "membership": {"membership": "king"},
    "membership of another type": {"membership": 7},
    "no such machine": {"machine": "nosuch"},
    "machine that is no text": {"machine": ["adder"]},
    "arguments that the machine does not take": {"arguments": {"start": "many"}},
    "arguments that are no table": {"arguments": [1, 2]},
    "uid that is a path": {"uids": {"sum@n1": "../../x"}},
    "uid that is a file of ours": {"uids": {"sum@n1": "tombstones"}},
    "uid of no member": {"uids": {"sum@n9": "SUM9"}},
    "one uid for two": {"members": ["sum@n1", "sum@n2"], "uids": {"sum@n1": "A", "sum@n2": "A"}},
    "uids that are no table": {"uids": 3},
    "long cluster id": {"cluster_id": "x" * 65},
    "cluster id that is a path": {"cluster_id": "a/b"},
    "no member here": {"members": ["sum@n2"]},
    "nobody": {"members": []},
    "the same twice": {"members": ["sum@n1", "sum@n2", "sum@n2"]},
    "too many": {"members": ["sum@n1", *(f"sum@m{i}" for i in range(2000))]},
    "member without a node": {"members": ["sum@n1", "sum@"]},
    "member of a bad node": {"members": ["sum@n1", "sum@a b"]},
    "negative position": {"joined_at": [-1, 0]},
    "huge position": {"joined_at": [2**63, 1]},
    "position that is none": {"joined_at": "x"},
    "term that is none": {"term": "x"},
    **{f"server {name[:8]!r}": {"members": [f"{name}@n1"]} for name in BAD_NAMES if name and "@" not in name},
    **{
        f"member {name[:8]!r}": {"members": ["sum@n1", f"{name}@n2"]}
        for name in BAD_NAMES
        if name and "@" not in name
    },
}


async def still_well(single: Nodes, client: barque.Client) -> None:
    """The neighbours of what was refused go on, and the node starts again."""
    assert await client.process_command("other", 0) == 7
    await single.stop()
    await single.start()
    assert await client.process_command("other", 0) == 7
    assert set(single.running["n1"].system.processes) == {"other"}


async def test_sec2_a_server_that_is_refused_leaves_nothing(tmp_path: Path) -> None:
    """Whatever is wrong with a request to start a server: it makes no file, and the node starts again."""
    async with nodes(tmp_path, 1) as single, single.client() as client:
        await client.start_cluster("other", "adder", arguments={"start": 7})
        servers = tree(tmp_path / "n1" / "servers")
        for what, changes in HOSTILE.items():
            with pytest.raises((ConfigurationError, InvalidCommand)):
                await ask_as_a_node(single.running["n1"], "start_server", {**START, **changes})
            assert tree(tmp_path / "n1" / "servers") == servers, what
        await still_well(single, client)


async def test_sec2_a_server_that_is_refused_takes_no_ones_place(tmp_path: Path) -> None:
    """A leftover server goes only for one that can start."""
    async with nodes(tmp_path, 1) as single, single.client() as client:
        await client.start_cluster("other", "adder", arguments={"start": 7})
        process = single.running["n1"].system.processes["other"]
        bad = {
            **START,
            "cluster": "other",
            "members": ["other@n1"],
            "cluster_id": process.cluster_id,
            "uids": {"other@n1": "OTHER9"},
            "term": 99,
            "membership": "king",
        }
        with pytest.raises((ConfigurationError, InvalidCommand)):
            await ask_as_a_node(single.running["n1"], "start_server", bad)
        await still_well(single, client)


async def test_sec3_bad_names_are_refused_at_every_way_in(tmp_path: Path) -> None:
    """By the client itself, and by the node whatever the client is; other clusters of the node go on."""
    verbs = [
        *(
            "ping",
            "members",
            "overview",
            "transfer_leadership",
            "start_cluster",
            "start_server",
            "discard_server",
        ),
        *(
            "trigger_election",
            "member_list",
            "member_add",
            "member_remove",
            "member_promote",
            "member_replace",
        ),
        *("cluster_delete", "force_shrink", "force_delete_server", "aux_command", "trigger_compaction"),
        *("server_start", "server_restart", "server_stop", "server_keep_data", "describe_server"),
        *("start_or_restart_cluster", "initial_members", "key_metrics", "member_demote", "query"),
        "state_query",
    ]
    nameless = {"nodes", "status", "local_report", "make_linked_copy", "remove_linked_copy"}
    nameless |= {"new_uid", "node_overview"}
    async with nodes(tmp_path, 1) as single, single.client() as client:
        await client.start_cluster("other", "adder", arguments={"start": 7})
        node = single.running["n1"]
        assert set(verbs) >= set(node.admin._verbs) - nameless
        for name in BAD_NAMES:
            for request in (
                lambda name=name: client.process_command(name, 1),
                lambda name=name: client.consistent_query(name),
                lambda name=name: client.local_query(name),
                lambda name=name: client.start_cluster(name, "adder"),
                lambda name=name: client.members(name),
            ):
                with pytest.raises(InvalidCommand):
                    await request()
            for verb in verbs:
                with pytest.raises(BarqueError, match="name"):
                    await node.admin.handle(verb, {**START, "cluster": name, "node": "n1", "member": "n1"})
        await still_well(single, client)


class Answers:
    """The node's end of a client's connection, in a test's hands."""

    role, peer, room = Role.CLIENT, "a test", 1 << 20

    def __init__(self) -> None:
        self.said: list[Any] = []

    def send(self, answers: list[Any]) -> bool:
        """Keep the answers."""
        self.said += answers
        return True

    def close(self, reason: str) -> None:
        """Keep the reason."""
        self.said.append(reason)


@pytest.mark.parametrize("name", BAD_NAMES)
async def test_sec3_requests_with_bad_names_are_refused_alone(tmp_path: Path, name: str) -> None:
    """A client that checks nothing hears `InvalidCommand`; the node's turn and its other clusters go on."""
    async with nodes(tmp_path, 1) as single, single.client() as client:
        await client.start_cluster("other", "adder", arguments={"start": 7})
        node, answers = single.running["n1"], Answers()
        session = node.sessions.open_remote(answers)  # type: ignore[arg-type]
        columns = b"\x01\x00\x00\x00\x01"
        session.on_requests([ClientCommands(name, 1, 1, columns, ReplyMode.AWAIT_CONSENSUS, 5_000, False)])
        session.on_requests([ClientQueries(name, 2, (b"\xc0",), "consistent", 5_000)])
        assert await client.process_command("other", 0) == 7
        assert [getattr(answer, "error", answer) for answer in answers.said] == ["InvalidCommand"] * 2
        assert name not in node.requests._routes


@pytest.mark.parametrize("what", ["date", "no number", "bytes", "integer key", "tuple"])
async def test_d4_arguments_of_a_configured_cluster_are_refused_at_the_first_start(
    tmp_path: Path, what: str
) -> None:
    """TOML has dates and infinities; no member may begin with what the others will not decode."""
    cluster = barque.ClusterConfig("sum", "adder", arguments={"start": 1, "extra": LOST[what]})
    single = Nodes(tmp_path, 1, clusters=(cluster,))
    with pytest.raises(ConfigurationError, match=r"arguments\.extra"):
        await single.start()
    assert not list((tmp_path / "n1" / "servers").glob("*/config"))


class Greedy(Adder):
    """Changes its arguments, as a careless machine may."""

    def init(self, args: dict[str, Any]) -> int:
        """Take the numbers away."""
        return sum(args["numbers"].pop() for _ in range(len(args["numbers"])))


async def test_d4_a_machine_that_changes_its_arguments_begins_alike_in_every_life(tmp_path: Path) -> None:
    """Each start decodes them anew: the first life is no exception."""
    async with nodes(tmp_path, 1) as single, single.client() as client:
        await single.stop()
        await single.start(machines={"adder": Greedy()})
        await client.start_cluster("sum", "adder", arguments={"numbers": [1, 2, 3]})
        assert await client.process_command("sum", 1) == 7
        await single.stop()
        await single.start(machines={"adder": Greedy()})
        assert await client.process_command("sum", 1) == 8


async def test_d4_a_client_refuses_what_would_not_arrive(tmp_path: Path) -> None:
    """A date would reach the node as a text already."""
    async with nodes(tmp_path, 1) as single, single.client() as client:
        for value in (datetime.date(2026, 1, 1), {1, 2}, float("inf"), {1: 2}):
            with pytest.raises(ConfigurationError, match=r"arguments\.start"):
                await client.start_cluster("sum", "adder", arguments={"start": value})
