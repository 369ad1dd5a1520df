"""`barque server`: single members, started, stopped and started again; and all that are there."""

import asyncio

import click
from rich import box
from rich.table import Table

from barque.cli.diagnosis import run_on_cluster
from barque.cli.output import output_option, print_json, print_rich
from barque.cli.reach import Reach, reach_options, run_with_client
from barque.cli.status import fetch_status


@click.group()
def server() -> None:
    """List servers, or start, stop and restart one.

    A server is a node's member of a cluster. A stopped one keeps its files, and its cluster goes on with the
    others, if they are a majority.
    """


@server.command(name="list")
@click.argument("node", required=False)
@output_option
@reach_options
def list_(reach: Reach, node: str | None, output: str) -> None:
    """List all servers on nodes that answer, or those of NODE, with those that do not run."""
    servers = [
        {"cluster": found["name"], **member}
        for found in asyncio.run(fetch_status(reach))["clusters"]
        for member in found["members"]
        if node in (None, member["node"])
    ]
    if output == "json":
        print_json(servers)
        return
    table = Table("server", "state", "term", "has up to", "applied", "why", box=box.SIMPLE_HEAD)
    for member in servers:
        table.add_row(
            member["server"],
            str(member["role"]).replace("_", " "),
            str(member["current_term"]),
            str(member["last_index"]),
            str(member["last_applied"]),
            member.get("failure") or "",
        )
    print_rich(table)


@server.command()
@click.argument("cluster")
@click.argument("node")
@click.option("--machine", required=True, help="The state machine, by its name in the node's configuration.")
@click.option("--members", required=True, metavar="n1,n2,…", help="The nodes of all members, NODE too.")
@reach_options
def start(reach: Reach, cluster: str, node: str, machine: str, members: str) -> None:
    """Start a new server of CLUSTER on NODE.

    For a cluster that is formed server by server; `barque cluster create` starts all of them. A server of
    a cluster that is there is added by `barque member add`.
    """
    places = [member.strip() for member in members.split(",")]
    done = run_with_client(reach, lambda client: client.start_server(cluster, node, machine, members=places))
    click.echo(f"{done.server} is started")


@server.command()
@click.argument("cluster")
@click.argument("node")
@reach_options
def stop(reach: Reach, cluster: str, node: str) -> None:
    """Stop the server of CLUSTER on NODE; it stays stopped until `barque server restart`."""
    done = run_on_cluster(reach, cluster, lambda client: client.stop_server(cluster, node))
    click.echo(f"{done.server} is {'' if done.changed else 'already '}{done.state}")


@server.command()
@click.argument("cluster")
@click.argument("node")
@reach_options
def restart(reach: Reach, cluster: str, node: str) -> None:
    """Start the server of CLUSTER on NODE again, which was stopped or has failed."""
    done = run_on_cluster(reach, cluster, lambda client: client.restart_server(cluster, node))
    click.echo(f"{done.server} {'runs again' if done.changed else 'runs already'}: {done.state}")
