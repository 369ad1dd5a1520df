"""`barque member`: the members of a cluster, and one change at a time."""

from collections.abc import Awaitable

import click
from rich import box
from rich.table import Table

from barque.cli.diagnosis import run_on_cluster
from barque.cli.failures import OK
from barque.cli.output import output_option, print_json, print_rich
from barque.cli.reach import Reach, reach_options
from barque.client.client import Client
from barque.client.results import AddedMember, MembersInfo, RemovedMember, ReplacedMember
from barque.types import Membership

force_option = click.option(
    "--force", is_flag=True, help="Even if too few voters are up: nobody leads until they return."
)


@click.group()
def member() -> None:
    """List a cluster's members, or change them.

    MEMBER is a node (n4) or a server (kv@n4). Changes take effect one after the other; a new
    member receives the log before it votes.
    """


@member.command(name="list")
@click.argument("cluster")
@output_option
@reach_options
def list_(reach: Reach, cluster: str, output: str) -> None:
    """List the members of CLUSTER, as its leader sees them."""
    if output == "json":  # the node's own answer, with all its fields
        print_json(
            run_on_cluster(reach, cluster, lambda client: client.call("member_list", {"cluster": cluster}))
        )
    else:
        print_rich(_table(run_on_cluster(reach, cluster, lambda client: client.members_info(cluster))))


def _table(found: MembersInfo) -> Table:
    table = Table("member", "may", "state", "has up to", "machine", "uid", box=box.SIMPLE_HEAD)
    for facts in found.members:
        table.add_row(
            str(facts.server),
            facts.membership.replace("_", "-"),
            "leader" if facts.server == found.leader else facts.status.replace("_", " "),
            str(facts.match_index),
            "?" if facts.machine_version is None else str(facts.machine_version),
            facts.uid or "?",
        )
    return table


@member.command()
@click.argument("cluster")
@click.argument("node")
@click.option("--non-voter", is_flag=True, help="Let it receive the log only; it never votes.")
@reach_options
def add(reach: Reach, cluster: str, node: str, non_voter: bool) -> int:
    """Start a member of CLUSTER on NODE; it votes when it has caught up."""
    membership = Membership.NON_VOTER if non_voter else Membership.VOTER
    return _tell_added(
        run_on_cluster(reach, cluster, lambda client: client.add_member(cluster, node, membership=membership))
    )


def _tell_added(added: AddedMember | ReplacedMember) -> int:
    if added.membership is Membership.PROMOTABLE:
        click.echo(
            f"{added.member} is a member and still catches up; it becomes a voter by itself "
            "(see `barque member list`)"
        )
    else:
        click.echo(f"{added.member} is a {added.membership.replace('_', '-')} now")
    return OK


@member.command()
@click.argument("cluster")
@click.argument("member_", metavar="MEMBER")
@force_option
@click.option("--keep-data", is_flag=True, help="Stop it and keep its files; its node must answer.")
@reach_options
def remove(reach: Reach, cluster: str, member_: str, force: bool, keep_data: bool) -> None:
    """Remove MEMBER from CLUSTER, and delete its data."""

    def work(client: Client) -> Awaitable[RemovedMember]:
        return client.remove_member(cluster, member_, force=force, keep_data=keep_data)

    gone = run_on_cluster(reach, cluster, work)
    if keep_data:
        click.echo(f"{gone.member} is removed, and stops; its files stay")
    else:
        _tell_removed(gone)


def _tell_removed(gone: RemovedMember) -> None:
    if gone.told:
        click.echo(f"{gone.member} is removed")
    else:
        click.echo(
            f"{gone.member} is removed; its node is out of reach, and deletes its data when it returns"
        )


@member.command()
@click.argument("cluster")
@force_option
@reach_options
def leave(reach: Reach, cluster: str, force: bool) -> None:
    """Remove the member of CLUSTER on the node that is asked; name the node by --node HOST:PORT."""

    async def work(client: Client) -> RemovedMember:
        answer = await client.ping(cluster)
        return await client.remove_member(cluster, answer.server or answer.node, force=force)

    _tell_removed(run_on_cluster(reach, cluster, work))


@member.command()
@click.argument("cluster")
@click.argument("member_", metavar="MEMBER")
@force_option
@reach_options
def promote(reach: Reach, cluster: str, member_: str, force: bool) -> None:
    """Let MEMBER of CLUSTER vote now, even if its log is behind."""
    now = run_on_cluster(reach, cluster, lambda client: client.promote_member(cluster, member_, force=force))
    click.echo(f"{now.member} is a {now.membership} now")


@member.command()
@click.argument("cluster")
@click.argument("member_", metavar="MEMBER")
@force_option
@reach_options
def demote(reach: Reach, cluster: str, member_: str, force: bool) -> None:
    """Take the vote of MEMBER away; it still receives the log."""
    now = run_on_cluster(reach, cluster, lambda client: client.demote_member(cluster, member_, force=force))
    click.echo(f"{now.member} is a {now.membership.replace('_', '-')} now")


@member.command()
@click.argument("cluster")
@click.argument("member_", metavar="MEMBER")
@click.option("--with", "node", metavar="NODE", help="The node of the new member. Default: the same node.")
@force_option
@reach_options
def replace(reach: Reach, cluster: str, member_: str, node: str | None, force: bool) -> int:
    """Remove MEMBER, which is lost or came back without its data, and add a new one."""
    done = run_on_cluster(
        reach, cluster, lambda client: client.replace_member(cluster, member_, node=node, force=force)
    )
    click.echo(f"{done.removed} is removed")
    return _tell_added(done)
