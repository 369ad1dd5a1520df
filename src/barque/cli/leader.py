"""`barque leader`: show the leader of a cluster, or hand leadership over."""

import asyncio
from typing import Any

import click

from barque.cli.diagnosis import find_cluster, run_on_cluster
from barque.cli.failures import FAILED, OK, CliError
from barque.cli.output import output_option, print_json
from barque.cli.reach import Reach, reach_options
from barque.cli.status import fetch_status
from barque.client.client import Client
from barque.client.results import Transfer
from barque.errors import OutcomeUnknown

_POLL_S = 0.05


@click.group()
def leader() -> None:
    """Show who leads a cluster, or hand leadership over."""


@leader.command()
@click.argument("name", metavar="[CLUSTER]", required=False)
@click.option("--cluster", default="kv", show_default=True)
@output_option
@reach_options
def show(reach: Reach, cluster: str, output: str, name: str | None) -> int:
    """Print the leader of CLUSTER, its node and term; exit with 1 if no member leads."""
    cluster = name or cluster
    found = find_cluster(asyncio.run(fetch_status(reach)), cluster)
    now = found["leader"]
    if output == "json":
        node = now.rpartition("@")[2] if now else None
        print_json({"cluster": cluster, "leader": now, "node": node, "term": found["term"]})
    elif now:
        click.echo(f"{now}, term {found['term']}")
    else:
        click.echo(f"no member leads {cluster!r} in term {found['term']}; is a majority of its members up?")
    return OK if now else FAILED


@leader.command()
@click.argument("target", required=False)
@click.option("--cluster", default="kv", show_default=True)
@reach_options
def transfer(reach: Reach, cluster: str, target: str | None) -> None:
    """Hand leadership to TARGET, a node or server; by default to the follower with the longest log."""
    found = find_cluster(asyncio.run(fetch_status(reach)), cluster)
    wanted = target or _best_follower(found)

    async def work(client: Client) -> str:
        answer = await client.transfer_leadership(cluster, wanted)
        if answer is Transfer.ALREADY_LEADER:
            return f"{wanted} leads {cluster!r} already"
        deadline = asyncio.get_running_loop().time() + reach.timeout_s
        while asyncio.get_running_loop().time() < deadline:
            for now in (await client.status([cluster])).clusters:
                if now.leader is not None and wanted in (str(now.leader), now.leader.node):
                    return f"{now.leader} leads {cluster!r} now, term {now.term}"
            await asyncio.sleep(_POLL_S)
        raise OutcomeUnknown(
            f"{wanted} was told to take over and does not lead after {reach.timeout_s:g} s; it may yet"
        )

    click.echo(run_on_cluster(reach, cluster, work))


def _best_follower(cluster: dict[str, Any]) -> str:
    followers = [
        m for m in cluster["members"] if m["server"] != cluster["leader"] and m["role"] == "follower"
    ]
    if not followers:
        raise CliError(
            f"{cluster['name']!r} has no follower that answers: no member can take over; see `barque status`"
        )
    return str(max(followers, key=lambda m: m["last_written_index"])["server"])
