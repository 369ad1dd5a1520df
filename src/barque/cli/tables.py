"""The tables of `status` and `dev`: the nodes, and the members of each cluster."""

from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from barque.cli.output import duration_text

_STATE_STYLES = {
    "running": "green",
    "starting": "yellow",
    "degraded": "yellow",
    "unreachable": "red",
    "down": "bold red",
}


def report_tables(report: dict[str, Any]) -> Group:
    """The tables of a status report, as `reporting.merge_reports` makes it."""
    tables: list[Table | Text] = [node_table(report["nodes"])]
    tables += [cluster_table(cluster) for cluster in report["clusters"]]
    if not report["clusters"]:
        tables.append(Text("No cluster has a member on a node that answers.", style="yellow"))
    return Group(*tables)


def report_lines(report: dict[str, Any]) -> Text:
    """The same facts as a list, for narrow terminals."""
    lines = ["Nodes"]
    for node in report["nodes"]:
        lines.append(f"  {node['name']}: {node['state']}, up {duration_text(node['uptime_s'])}")
        lines += [f"    {what} {node[key]}" for what, key in _ADDRESSES if node[key]]
        if remark := _node_remark(node):
            lines.append(f"    {remark}")
    for cluster in report["clusters"]:
        leader = cluster["leader"]
        lines.append(f"Cluster {cluster['name']}: {'led by ' + leader if leader else 'no leader'}")
        for member in cluster["members"]:
            lines.append(f"  {member['server']}: {member['role']}, term {member['current_term']}")
            lines.append(f"    applied {member['last_applied']} of {member['last_index']}")
            if remark := member.get("failure") or member.get("waits_for"):
                lines.append(f"    {remark}")
    return Text("\n".join(lines))


_ADDRESSES = (("at", "address"), ("redis at", "resp_address"))


def node_table(nodes: list[dict[str, Any]]) -> Table:
    """Name, process, state and addresses of each node."""
    table = Table(box=box.SIMPLE_HEAD, title="Nodes", title_justify="left", title_style="bold")
    for column in ("node", "pid", "state", "up", "address", "redis"):
        table.add_column(column, no_wrap=True, justify="right" if column in ("pid", "up") else "left")
    remarks = [_short(_node_remark(node)) for node in nodes]
    if any(remarks):
        table.add_column("remark", overflow="fold")
    for node, remark in zip(nodes, remarks, strict=True):
        state = str(node["state"])
        table.add_row(
            str(node["name"]),
            _shown(node["pid"]),
            Text(state, style=_STATE_STYLES.get(state, "")),
            duration_text(node["uptime_s"]),
            _shown(node["address"]),
            _shown(node["resp_address"]),
            *([remark] if any(remarks) else []),
        )
    return table


def _node_remark(node: dict[str, Any]) -> str:
    """What an operator should look at first."""
    if node.get("failure"):
        return str(node["failure"])
    clock = node.get("clock") or {}
    if clock.get("overruled"):
        seconds = clock["error_ms"] / 1000
        return f"its clock is {abs(seconds):.1f} s {'ahead' if seconds > 0 else 'behind'}; set it"
    other = node.get("other_machine_code") or {}
    return "; ".join(f"{name} has other code of {', '.join(machines)}" for name, machines in other.items())


def cluster_table(cluster: dict[str, Any]) -> Table:
    """Leader, term, and the log position of each member."""
    leader = cluster["leader"]
    title = Text(f"Cluster {cluster['name']}: term {cluster['term']}, ", style="bold")
    title.append(f"led by {leader}" if leader else "no leader", style="bold green" if leader else "bold red")
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    table.add_column("member", no_wrap=True)
    table.add_column("role", no_wrap=True)
    for column in ("term", "commit", "applied", "last", "written", "snapshot"):
        table.add_column(column, justify="right", no_wrap=True)
    remarks = [_short(m.get("failure") or m.get("waits_for") or "") for m in cluster["members"]]
    if any(remarks):
        table.add_column("remark", overflow="fold")
    for member, remark in zip(cluster["members"], remarks, strict=True):
        table.add_row(
            str(member["server"]),
            Text(str(member["role"]), style="green" if member["server"] == leader else ""),
            *(f"{member[field]}" for field in ("current_term", "commit_index", "last_applied", "last_index")),
            f"{member['last_written_index']}",
            f"{member['snapshot_index']}",
            *([remark] if any(remarks) else []),
        )
    return table


def _shown(value: Any) -> str:
    return "–" if value is None else str(value)


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:59]}…"
