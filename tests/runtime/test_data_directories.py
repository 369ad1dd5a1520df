"""Whose a data directory is: nodes refuse the directories of others, and change nothing in them (D1)."""

import re
import shutil
from pathlib import Path

import pytest
from tests.directories import as_format_1, tree
from tests.nodes import Nodes, nodes, until

from barque.errors import ConfigurationError, Damaged


def swap(made: Nodes, one: str, other: str) -> None:
    """What happens when two disks change their machines."""
    aside = made.directory / "aside"
    (made.directory / one).rename(aside)
    (made.directory / other).rename(made.directory / one)
    aside.rename(made.directory / other)


async def refused(made: Nodes, name: str, *named: str) -> None:
    """The start is refused, names all of these, and leaves every byte as it was."""
    before = tree(made.directory / name)
    with pytest.raises(ConfigurationError) as caught:
        await made.start(name)
    text = str(caught.value)
    assert all(part in text for part in (*named, str(made.directory / name), "Nothing was changed")), text
    assert tree(made.directory / name) == before


async def test_d1_swapped_directories_of_five_nodes_are_refused_and_lose_nothing(tmp_path: Path) -> None:
    """Two of five nodes get each other's directory: both refuse; put right, all have everything."""
    async with nodes(tmp_path, 5) as five, five.client() as client:
        await client.start_cluster("sum", "adder")
        assert await client.process_command("sum", 1) == 1
        await five.stop("n4", "n5")
        swap(five, "n4", "n5")
        for name, owner in (("n4", "n5"), ("n5", "n4")):
            await refused(
                five, name, f"belongs to node '{owner}'", f"this is node '{name}'", "member replace"
            )
        assert await client.process_command("sum", 1) == 2
        swap(five, "n4", "n5")
        await five.start("n4", "n5")

        async def all_there() -> bool:
            states = [node.system.processes["sum"].server.machine_state for node in five.running.values()]
            return states == [2] * 5

        assert await until(all_there, "all five have both commands")


@pytest.mark.parametrize("change", ["name", "installation", "both"])
async def test_d1_a_node_with_another_name_or_installation_refuses(tmp_path: Path, change: str) -> None:
    """A changed `name` or `installation`, and a volume that was copied to another node, are refused."""
    async with nodes(tmp_path, 1) as one, one.client() as client:
        await client.start_cluster("sum", "adder")
        await client.process_command("sum", 5)
        await one.stop()
        other = Nodes(tmp_path, 1, **({} if change == "name" else {"installation": "elsewhere"}))
        if change != "installation":
            shutil.copytree(tmp_path / "n1", tmp_path / "n2")
            other.addresses = {"n2": other.addresses["n1"]}
        name = next(iter(other.addresses))
        await refused(other, name, "belongs to node 'n1' of installation 'barque'", f"node '{name}'")
        await one.start()
        assert await client.consistent_query("sum") == 5


async def test_d1_a_directory_of_format_1_is_adopted_once(tmp_path: Path) -> None:
    """It gets its owner at the first start; from then on every other node refuses it."""
    async with nodes(tmp_path, 1) as one, one.client() as client:
        await client.start_cluster("sum", "adder")
        await client.process_command("sum", 5)
        await one.stop()
        as_format_1(tmp_path / "n1")
        await one.start()
        assert await client.process_command("sum", 1) == 6
        await one.stop()
        assert b'"node":"n1"' in (tmp_path / "n1" / "identity").read_bytes()
        await one.start()
        assert await client.consistent_query("sum") == 6


@pytest.mark.parametrize("by_log", [False, True])
async def test_d1_a_format_1_directory_of_another_node_is_refused(tmp_path: Path, by_log: bool) -> None:
    """The record names its node, or else a configuration in its log does."""
    async with nodes(tmp_path, 3) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        await client.process_command("sum", 1)
        await client.remove_member("sum", "sum@n3")  # its entry lists the others, and is on both their disks
        await three.stop()
        for name in ("n1", "n2", "n3"):
            as_format_1(tmp_path / name, initial_uids=not by_log)
        swap(three, "n1", "n2")
        for name in ("n1", "n2"):
            with pytest.raises(ConfigurationError, match="'sum' lives there"):
                await three.start(name)
        swap(three, "n1", "n2")
        await three.start()
        assert await client.consistent_query("sum") == 1


async def test_d1_a_server_of_format_1_that_names_no_member_here_is_refused(tmp_path: Path) -> None:
    """Even without a log: the members of its cluster are on other nodes."""
    async with nodes(tmp_path, 2) as two, two.client() as client:
        await client.start_cluster("sum", "adder", nodes=["n1"])
        await two.stop()
        as_format_1(tmp_path / "n1", server_format=1)
        shutil.rmtree(tmp_path / "n2")
        (tmp_path / "n1").rename(tmp_path / "n2")
        with pytest.raises(ConfigurationError, match=r"belongs to node 'n1' \('sum' lives there\)"):
            await two.start("n2")


async def test_d1_foreign_files_are_left_alone(tmp_path: Path) -> None:
    """A new directory may hold the file system's own and other people's files."""
    (tmp_path / "n1" / "lost+found").mkdir(parents=True)
    (tmp_path / "n1" / "notes.txt").write_text("mine")
    async with nodes(tmp_path, 1) as one, one.client() as client:
        await client.start_cluster("sum", "adder")
        assert (tmp_path / "n1" / "notes.txt").read_text() == "mine"
        assert (tmp_path / "n1" / "lost+found").is_dir()


async def test_d1_servers_without_an_identity_are_no_new_directory(tmp_path: Path) -> None:
    """A directory that lost `identity`, and perhaps the log too, is damaged, and is not made anew."""
    async with nodes(tmp_path, 1) as one, one.client() as client:
        await client.start_cluster("sum", "adder")
        await one.stop()
        (tmp_path / "n1" / "identity").unlink()
        with pytest.raises(Damaged, match="identity: missing"):
            await one.start()
        shutil.rmtree(tmp_path / "n1" / "wal")
        (tmp_path / "n1" / "meta").unlink()
        with pytest.raises(Damaged, match=r"identity: missing, in a directory that holds servers \(SUM"):
            await one.start()


async def test_d1_a_half_written_identity_is_written_again(tmp_path: Path) -> None:
    """A crash during the very first start leaves a temporary file, and nothing that counts."""
    folder = tmp_path / "n1"
    folder.mkdir()
    (folder / "identity.tmp").write_bytes(b"barque data dir")
    async with nodes(tmp_path, 1):
        assert re.match(rb"barque data directory, format 2", (folder / "identity").read_bytes())
        assert not (folder / "identity.tmp").exists()
