"""`barque recover`: ways out when a majority is lost for good, or a machine cannot go on."""

import asyncio
from typing import Any

import click
import msgspec

from barque.cli.failures import CliError
from barque.cli.output import confirm
from barque.cli.reach import Reach, reach_options, run_with_client
from barque.cli.status import fetch_status
from barque.types import Index


@click.group()
def recover() -> None:
    """Recover from a lost quorum or a machine fault. These verbs may lose data, and say which."""


@recover.command(name="force-shrink")
@click.argument("cluster")
@click.argument("node")
@click.option("--yes", is_flag=True, help="Do not ask.")
@reach_options
def force_shrink(reach: Reach, cluster: str, node: str, yes: bool) -> None:
    """Make the member of CLUSTER on NODE the whole cluster.

    Use it when a majority of the members will never return: their disks are gone. Choose the
    survivor with the longest log (`barque status`). Afterwards: `barque member add`.
    """
    address, survivor, others = _look(reach, cluster, node)
    click.echo(f"{survivor['server']} will be the only member of {cluster!r}.")
    click.echo(
        f"  it has: entries up to {survivor['last_written_index']}, in term {survivor['current_term']}"
    )
    for other in others:
        ahead = _log_of(other) > _log_of(survivor)
        what = (
            f"answers, with entries up to {other['last_written_index']} of term {other['last_written_term']}"
        )
        click.echo(f"  {other['server']} {what}{': MORE than the survivor' if ahead else ''}")
    click.echo("  lost: acknowledged entries that only lost members have")
    click.echo("  lost members must never run again with their old data: wipe their directories")
    if len(others) and any(m["role"] == "leader" for m in [survivor, *others]):
        click.echo("  WARNING: the cluster has a leader; remove members with `barque member remove` instead")
    if not yes:
        confirm("Go on?")
    alone = msgspec.structs.replace(reach, addresses=(address,))
    done = run_with_client(alone, lambda client: client.force_shrink(cluster))
    lost = ", ".join(map(str, done.lost)) or "none"
    click.echo(
        f"{done.member} is the only member of {cluster!r} now and leads in term {done.term}; gone: {lost}"
    )
    click.echo(f"next: barque member add {cluster} NODE")


@recover.command(name="force-delete")
@click.argument("cluster")
@click.argument("node")
@click.option("--yes", is_flag=True, help="Do not ask.")
@reach_options
def force_delete(reach: Reach, cluster: str, node: str, yes: bool) -> None:
    """Delete the member of CLUSTER on NODE with its data, and tell nobody.

    Use it for a member that was removed, when too few nodes are left to confirm that. A member that the
    cluster still lists is removed by `barque member remove`.
    """
    address, member, others = _look(reach, cluster, node)
    click.echo(f"{member['server']} will be deleted, with entries up to {member['last_written_index']}.")
    leaders = [other["server"] for other in others if other["role"] == "leader"]
    if leaders:
        click.echo(f"  {leaders[0]} leads {cluster!r}: is it still in `barque member list {cluster}`?")
    if not yes:
        confirm("Delete it?")
    alone = msgspec.structs.replace(reach, addresses=(address,))
    run_with_client(alone, lambda client: client.force_delete_server(cluster))
    click.echo(f"{member['server']} is deleted")


@recover.command(name="skip-entry")
@click.argument("cluster")
@click.argument("node")
@click.option("--index", type=int, required=True, help="The entry, as `status` names it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@reach_options
def skip_entry(reach: Reach, cluster: str, node: str, index: int, yes: bool) -> None:
    """Let no member of CLUSTER apply the entry at which its machine raises; NODE has a member.

    Its command is lost, although its caller may have been told nothing or that it may have happened. All
    members must be reachable and agree, so that their states stay alike. Mended code is the better way.
    """
    _, member, _ = _look(reach, cluster, node)
    click.echo(f"{member['server']}: {member.get('failure') or member['role']}")
    click.echo(f"No member of {cluster!r} will apply entry {index}: its command is lost.")
    if not yes:
        confirm("Skip it?")
    done = run_with_client(reach, lambda client: client.skip_entry(cluster, Index(index), node))
    click.echo(f"entry {index} is skipped by {', '.join(map(str, done))}, which run again")


def _log_of(member: dict[str, Any]) -> tuple[int, int]:
    """A member's log position, in the order of the voting rule (§3.6.1): last term, then last index."""
    return int(member["last_written_term"]), int(member["last_written_index"])


def _look(reach: Reach, cluster: str, node: str) -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
    """Find the survivor's address and facts, and the other members that answer."""
    report = asyncio.run(fetch_status(reach))
    addresses = {n["name"]: n["address"] for n in report["nodes"] if n["address"]}
    if node not in addresses:
        known = ", ".join(sorted(addresses)) or "none"
        raise CliError(f"node {node!r} does not answer; the nodes that do: {known}")
    for found in report["clusters"]:
        if found["name"] == cluster:
            here = [m for m in found["members"] if m["server"].rpartition("@")[2] == node]
            if here:
                others = [m for m in found["members"] if m is not here[0]]
                return addresses[node], here[0], others
    raise CliError(f"node {node!r} has no member of {cluster!r}; see `barque status`")
