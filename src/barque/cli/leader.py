"""`barque leader`: show the leader of a cluster, hand leadership over, or deal leaders out over nodes."""

import asyncio
from typing import Any

import click
from msgspec.structs import asdict

from barque.cli.diagnosis import find_cluster, run_on_cluster
from barque.cli.failures import FAILED, OK, CliError
from barque.cli.output import output_option, print_json
from barque.cli.reach import Reach, reach_options
from barque.cli.status import fetch_status
from barque.client.client import Client
from barque.client.results import LeaderBalance, Transfer
from barque.errors import OutcomeUnknown

_POLL_S = 0.05


@click.group()
def leader() -> None:
    """Show who leads a cluster, hand leadership over, or deal leaders out."""


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


@leader.command()
@click.option("--dry-run", is_flag=True, help="Only show what would be moved.")
@click.option("--max", "moves_max", type=click.IntRange(min=0), metavar="N", help="Move at most so many.")
@click.option(
    "--per-second",
    type=click.FloatRange(min=0.0, min_open=True),
    default=20.0,
    show_default=True,
    help="Transfers a second.",
)
@output_option
@reach_options
def balance(reach: Reach, dry_run: bool, moves_max: int | None, per_second: float, output: str) -> int:
    """Deal the leaders of all clusters out over the running nodes; exit with 1 if a transfer failed.

    --timeout is for each request.
    """

    async def work() -> LeaderBalance:
        async with reach.client() as client:
            return await client.balance_leaders(dry_run=dry_run, moves_max=moves_max, per_second=per_second)

    found = asyncio.run(work())
    if output == "json":
        moves = [
            {**asdict(move), "source": str(move.source), "target": str(move.target)} for move in found.moves
        ]
        print_json({"before": found.before, "after": found.after, "moves": moves})
    else:
        for move in found.moves:
            reason = f": {move.reason}" if move.reason else ""
            click.echo(f"{move.cluster}: {move.source.node} -> {move.target.node}, {move.outcome}{reason}")
        for node in sorted(found.before):
            click.echo(f"{node} leads {found.after.get(node, 0)} (before: {found.before[node]})")
    return OK if all(move.outcome in ("planned", "moved") for move in found.moves) else FAILED


def _best_follower(cluster: dict[str, Any]) -> str:
    followers = [
        m for m in cluster["members"] if m["server"] != cluster["leader"] and m["role"] == "follower"
    ]
    if not followers:
        raise CliError(
            f"{cluster['name']!r} has no follower that answers: no member can take over; see `barque status`"
        )
    return str(max(followers, key=lambda m: m["last_written_index"])["server"])
