"""Members of a real cluster come, go, die for good, and come back when they should not."""

import contextlib
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.processes.support import Cluster, Writers, until

import barque
from barque.errors import AlreadyMember, ChangeNotPermitted, OutcomeUnknown, UnknownMember
from barque.machine.kv_commands import Get, Set

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("processes")]

FIRST = ("n1", "n2", "n3")


class Growing(Cluster):
    """Nodes whose configuration names no cluster: `kv` is formed on three of them by a client."""

    def _config(self, name: str) -> str:
        return super()._config(name).partition("[[clusters]]")[0]

    async def voters(self, client: barque.Client) -> set[str]:
        """The nodes of the voters, as the leader sees it."""
        info = await client.members_info("kv")
        return {m.server.node for m in info.members if m.membership == "voter"}

    async def add(self, client: barque.Client, node: str) -> None:
        """Add a member, as often as it takes, until it votes."""

        async def done() -> bool:
            with contextlib.suppress(AlreadyMember):
                await client.add_member("kv", node)
            return node in await self.voters(client)

        await until(done, f"{node} to vote")

    async def remove(self, client: barque.Client, node: str) -> None:
        """Remove a member, as often as it takes, until it is gone for its leader."""

        async def done() -> bool:
            with contextlib.suppress(UnknownMember):
                await client.remove_member("kv", node)
            return node not in await self.voters(client)

        await until(done, f"{node} to be removed")

    async def shown(self, client: barque.Client) -> dict[str, barque.MemberStatus]:
        """The members of `kv` that run, by node, as `status` shows them."""
        found = [c for c in (await client.status()).clusters if c.name == "kv"]
        return {m.server.node: m for c in found for m in c.members if m.role != "unreachable"}

    async def agree(self, client: barque.Client, *names: str) -> dict[str, barque.MemberStatus]:
        """Wait until exactly these are shown, one of them leads, and all have applied the same."""

        async def look() -> dict[str, barque.MemberStatus] | None:
            shown = await self.shown(client)
            roles = [m.role for m in shown.values()]
            applied = {m.last_applied for m in shown.values()}
            good = set(shown) == set(names) and roles.count("leader") == 1 and len(applied) == 1
            return shown if good else None

        found: dict[str, barque.MemberStatus] = await until(look, f"{names} to be all of the cluster")
        return found


@contextlib.asynccontextmanager
async def formed(directory: Path, names: tuple[str, ...]) -> AsyncIterator[Growing]:
    """These nodes, with `kv` on the first three; none of them prints a traceback."""
    cluster = Growing(directory, names)
    cluster.start()
    try:
        async with cluster.client() as client:

            async def form() -> bool:
                answers = {node.name for node in (await client.status()).nodes if node.pid}
                return answers == set(names)

            await until(form, "all nodes to answer")
            answer = await client.start_cluster("kv", "kv", nodes=FIRST)
            assert answer.not_started == {}
            await cluster.leader(client)
        yield cluster
    finally:
        cluster.stop()
    for name in names:
        assert "Traceback" not in cluster.log(name), cluster.log(name)


async def test_three_become_five_and_three_again_under_load(tmp_path: Path) -> None:
    """The leader is killed between the steps: nothing acknowledged is lost, nothing doubled.

    The last to go are the first members: the cluster that remains shares one member with the first.
    """
    async with (
        formed(tmp_path, (*FIRST, "n4", "n5")) as cluster,
        cluster.client() as one,
        cluster.client() as other,
    ):
        writers = Writers([one, other], 16)
        for step, node in (
            (cluster.add, "n4"),
            (cluster.add, "n5"),
            (cluster.remove, "n1"),
            (cluster.remove, "n2"),
        ):
            await writers.progress(200)
            leader = await cluster.leader(one)
            cluster.kill(leader)
            await writers.progress(100)
            cluster.start(leader)
            await step(other, node)
        await writers.progress(200)
        await writers.stop()
        shown = await cluster.agree(one, "n3", "n4", "n5")
        assert all(member.voter for member in shown.values())
        assert await cluster.voters(one) == {"n3", "n4", "n5"}
        await writers.check(one)


async def test_a_member_whose_disk_is_gone_is_replaced(tmp_path: Path) -> None:
    """Under load, on the same node with an empty disk, and then by another node while it is dead."""
    async with formed(tmp_path, (*FIRST, "n4")) as cluster, cluster.client("n1", "n2", "n4") as client:
        writers = Writers([client], 8)
        await writers.progress(200)
        cluster.kill("n3")
        shutil.rmtree(tmp_path / "n3")
        cluster.start("n3")

        async def replaced() -> bool:
            with contextlib.suppress(UnknownMember):  # an earlier attempt has removed it, and got no further
                await client.replace_member("kv", "n3")
            return True

        await until(replaced, "n3 to be replaced")
        await cluster.add(client, "n3")
        await writers.progress(200)
        cluster.kill("n3")
        assert (await client.replace_member("kv", "n3", node="n4")).member == barque.ServerId("kv", "n4")
        await until(lambda: votes(cluster, client, "n4"), "n4 to vote")
        await writers.progress(200)
        await writers.stop()
        cluster.start("n3")  # with the data of a member that was removed
        await cluster.agree(client, "n1", "n2", "n4")
        await writers.check(client)


async def votes(cluster: Growing, client: barque.Client, node: str) -> bool:
    """Whether a node's member votes."""
    return node in await cluster.voters(client)


async def test_the_survivor_of_a_lost_quorum_goes_on(tmp_path: Path) -> None:
    """Two of three lose their disks for good; the third is made the whole cluster, and grows again."""
    async with formed(tmp_path, FIRST) as cluster, cluster.client() as client:
        writers = Writers([client], 8)
        await writers.progress(300)
        await writers.stop()
        await cluster.agree(client, *FIRST)  # the survivor has everything
        cluster.kill("n1", "n2")
        shutil.rmtree(tmp_path / "n1")
        shutil.rmtree(tmp_path / "n2")
        async with cluster.client("n3") as survivor:

            async def lost() -> bool:
                shown = await cluster.shown(survivor)
                return shown["n3"].role != "leader"

            await until(lost, "n3 to be without a quorum")
            done = await survivor.force_shrink("kv")
            assert (str(done.member), sorted(map(str, done.lost))) == ("kv@n3", ["kv@n1", "kv@n2"])
            await writers.check(survivor)
            assert await cluster.voters(survivor) == {"n3"}
            cluster.start("n1", "n2")
            await cluster.add(survivor, "n1")
            await cluster.add(survivor, "n2")
        await cluster.agree(client, *FIRST)
        cluster.kill("n3")  # the new ones have everything, and are a majority
        await cluster.leader(client)
        await writers.check(client)


async def test_a_member_of_a_deleted_cluster_stays_out_of_the_next(tmp_path: Path) -> None:
    """It was away when its cluster was deleted and another of that name was formed, on its node, too."""
    async with formed(tmp_path, (*FIRST, "n4")) as cluster, cluster.client("n1", "n2", "n4") as client:
        await client.process_command("kv", Set(b"k", b"old"))
        cluster.kill("n3")

        async def deleted() -> bool:
            return barque.ServerId("kv", "n3") in (await client.delete_cluster("kv")).members

        await until(deleted, "the cluster to be deleted")

        async def formed_again() -> bool:
            return not (await client.start_cluster("kv", "kv", nodes=("n1", "n2", "n4"))).not_started

        await until(formed_again, "the next cluster of that name")
        await client.process_command("kv", Set(b"new", b"1"))
        cluster.start("n3")

        async def is_told() -> bool:
            return "is deleted, cluster 'kv'" in cluster.log("n3")

        await until(is_told, "n3 to be told")
        await cluster.agree(client, "n1", "n2", "n4")
        for name in cluster.addresses:
            async with cluster.client(name) as one:
                assert set(await cluster.shown(one)) == {"n1", "n2", "n4"}
                assert await one.consistent_query("kv", Get(b"k")) is None
                assert await one.consistent_query("kv", Get(b"new")) == b"1"
        await cluster.add(client, "n3")  # a new one, of the new cluster
        await cluster.agree(client, "n1", "n2", "n3", "n4")


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP], ids=lambda number: number.name)
async def test_d3_a_change_that_would_lose_the_quorum_is_refused(tmp_path: Path, end: signal.Signals) -> None:
    """D3: n3 is dead or hangs, and an operator removes a healthy member: refused at once, naming n3.

    The cluster serves on. With `force` the change counts, and the cluster stands still until n3 is back.
    """
    async with formed(tmp_path, FIRST) as cluster, cluster.client("n1", "n2") as client:

        async def n3_follows() -> bool:
            if await cluster.leader(client) == "n3":
                await client.transfer_leadership("kv", "n1")
            return await cluster.leader(client) != "n3"

        await until(n3_follows, "another node than n3 to lead")
        cluster.signal("n3", end)
        kv = client.cluster("kv")
        for change in (
            lambda: kv.remove_member("n2"),
            lambda: kv.remove_member("n1"),
            lambda: kv.replace_member("n2"),
        ):
            with pytest.raises(ChangeNotPermitted, match="down: kv@n3"):
                await change()
        assert await cluster.voters(client) == set(FIRST)
        await client.process_command("kv", Set(b"still", b"served"))
        follower = "n2" if await cluster.leader(client) == "n1" else "n1"
        with pytest.raises(OutcomeUnknown):
            await client.remove_member("kv", follower, force=True, timeout_s=2.0)
        if end is signal.SIGSTOP:
            cluster.signal("n3", signal.SIGCONT)
        else:
            cluster.processes["n3"].wait()
            cluster.start("n3")

        async def serves() -> bool:
            await client.process_command("kv", Set(b"back", b"again"), timeout_s=2.0)
            return True

        await until(serves, "the cluster to serve again")
        # Another member may have won, and then the change is void: its outcome was unknown.
        assert await cluster.voters(client) in (set(FIRST), set(FIRST) - {follower})
