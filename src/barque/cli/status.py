"""`barque status`: all nodes and clusters, from any single live node."""

import asyncio
from typing import Any

import click

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
@output_option
@reach_options
def status(reach: Reach, output: str) -> None:
    """Show all nodes, and the log position of each member of each cluster.

    One live node is enough, with or without a leader.
    """
    report = asyncio.run(fetch_status(reach))
    show_report(report, output, f"Answers from {report['asked']}.")


def show_report(report: dict[str, Any], output: str, note: str) -> None:
    """Print it as JSON, or as tables with a note below."""
    if output == "json":
        print_json(report)
        return
    from barque.cli.tables import report_tables

    print_rich(report_tables(report))
    click.echo(note)
