"""`barque status`: all nodes and clusters, from any single live node."""

import asyncio
from typing import Any

import click

from barque.cli.failures import FAILED, OK, UNAVAILABLE
from barque.cli.output import output_option, print_json, print_rich
from barque.cli.reach import Reach, first_answer, reach_options


async def fetch_status(reach: Reach) -> dict[str, Any]:
    """Fetch the report of the first node that answers, and add the addresses of unreachable nodes."""
    timeout_ms = int(reach.timeout_s * 800)  # the node must answer, with its reasons, before we give up
    asked = {"clusters": None, "timeout_ms": timeout_ms}
    (address, report), (_, addresses) = await asyncio.gather(
        first_answer(reach, "status", asked), first_answer(reach, "nodes")
    )
    for node in report["nodes"]:
        if node["address"] is None:
            node["address"] = addresses.get(node["name"])
    report["asked"] = address
    return dict(report)


@click.command()
@click.option(
    "--check",
    is_flag=True,
    help="Exit with 1 if a node or a member is not well, and with 69 if a cluster has no leader.",
)
@output_option
@reach_options
def status(reach: Reach, output: str, check: bool) -> int:
    """Show all nodes, and the log position of each member of each cluster.

    One live node is enough, with or without a leader.
    """
    report = asyncio.run(fetch_status(reach))
    show_report(report, output, f"Answers from {report['asked']}.")
    if not check:
        return OK
    code, problems = judge(report)
    for problem in problems:
        click.echo(f"not well: {problem}", err=True)
    return code


def judge(report: dict[str, Any]) -> tuple[int, list[str]]:
    """The exit code of a health check, and what is not well."""
    problems = [
        f"node {node['name']} is {node['state']}" + (f": {node['failure']}" if node.get("failure") else "")
        for node in report["nodes"]
        if node["state"] != "running"
    ]
    problems += [
        f"the clock of node {node['name']} is {node['clock']['error_ms']} ms off"
        for node in report["nodes"]
        if (node.get("clock") or {}).get("overruled")
    ]
    leaderless = [cluster["name"] for cluster in report["clusters"] if cluster["leader"] is None]
    problems += [f"no member leads cluster {name!r}" for name in leaderless]
    problems += [
        f"{member['server']} has stopped: {member['failure']}"
        for cluster in report["clusters"]
        for member in cluster["members"]
        if member.get("failure")
    ]
    if leaderless:
        return UNAVAILABLE, problems
    return (FAILED if problems else OK), problems


def show_report(report: dict[str, Any], output: str, note: str) -> None:
    """Print it as JSON, or as tables with a note below."""
    if output == "json":
        print_json(report)
        return
    from barque.cli.tables import report_lines, report_tables

    print_rich(report_tables(report), narrow=report_lines(report))
    click.echo(note)
