"""`barque dev`: a cluster on this machine, for trials and development. Real processes, real sockets."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from barque.cli.dev_directory import CLUSTER, DEFAULT_DIRECTORY, DevDirectory, DevNode, DevState
from barque.cli.dev_processes import (
    STOP_S,
    DevCluster,
    check_ports,
    is_alive,
    lacking,
    mark_of,
    plan_nodes,
    send_signal,
    serves,
    wait_gone,
)
from barque.cli.failures import FAILED, OK, USAGE, CliError
from barque.cli.node import LOG_LEVELS
from barque.cli.output import output_option
from barque.cli.status import show_report
from barque.types import NAME_RULE, is_valid_name

Function = TypeVar("Function", bound=Callable[..., Any])

_NODES, _PORT, _RESP_PORT = 3, 7401, 6401
_START_S = 20.0
_REFRESH_S = 0.5
_PORT_RANGE = click.IntRange(1, 65535)


def _dir_option(default: str | None) -> Callable[[Function], Function]:
    return click.option(
        "--dir",
        "directory",
        metavar="DIR",
        default=default,
        help=f"The directory of the cluster. Default: ./{DEFAULT_DIRECTORY}.",
    )


def _timeout_option(default: float) -> Callable[[Function], Function]:
    return click.option(
        "--timeout", type=click.FloatRange(min=0.05), default=default, show_default=True, help="Seconds."
    )


@click.group(invoke_without_command=True)
@click.option("--nodes", type=click.IntRange(1, 9), help=f"The number of nodes. Default: {_NODES}.")
@_dir_option(DEFAULT_DIRECTORY)
@click.option(
    "--port", type=_PORT_RANGE, help=f"The port of the first node; the others follow. Default: {_PORT}."
)
@click.option("--resp-port", type=_PORT_RANGE, help=f"The same for Redis clients. Default: {_RESP_PORT}.")
@click.option(
    "--machine",
    "machines",
    multiple=True,
    metavar="[NAME=]MODULE:CLASS",
    help="Also run a cluster of this machine of yours. Its NAME defaults to the class's. May be repeated.",
)
@click.option("--fresh", is_flag=True, help="Remove the data that an earlier `barque dev` left in DIR.")
@click.option("--detach", is_flag=True, help="Return when the nodes serve; they keep running.")
@click.option("--log-level", type=click.Choice(LOG_LEVELS), default="info", show_default=True)
@click.pass_context
def dev(
    ctx: click.Context,
    nodes: int | None,
    directory: str,
    port: int | None,
    resp_port: int | None,
    machines: tuple[str, ...],
    fresh: bool,
    detach: bool,
    log_level: str,
) -> int:
    """Run a cluster on this machine, and show its state. Ctrl-C stops it; the data stays.

    Each node serves Redis clients: `redis-cli -p 6401`. The next start carries on with the data.
    """
    ctx.obj = directory
    if ctx.invoked_subcommand is not None:
        return OK
    cluster = DevCluster(DevDirectory(Path(directory)))
    cluster.directory.prepare()
    with cluster.directory.locked():
        _refuse_running(cluster)
        if fresh:
            cluster.directory.remove_contents()
        try:
            chosen = _choose_nodes(cluster.directory, nodes, port, resp_port)
            check_ports(chosen)
            state = _with_machines(cluster.directory, chosen, machines)
        except CliError:
            cluster.directory.forget()
            raise
        supervisor = None if detach else mark_of(os.getpid())
        cluster.directory.write(msgspec.structs.replace(state, supervisor=supervisor))
        if detach:
            _tell_started(cluster, asyncio.run(_start(cluster, log_level)))
            return OK
    return asyncio.run(_foreground(cluster, log_level))


def _refuse_running(cluster: DevCluster) -> None:
    directory = cluster.directory
    if not directory.exists:
        return
    state = directory.load()
    running = [node.name for node in state.nodes if is_alive(node.process)]
    if running or is_alive(state.supervisor):
        raise CliError(
            f"a cluster runs in {directory.shown} already ({', '.join(running) or 'no node is up'}); see "
            f"`barque dev status{_dir_flag(directory)}`, end it with `barque dev stop{_dir_flag(directory)}`"
        )


def _choose_nodes(
    directory: DevDirectory, count: int | None, port: int | None, resp_port: int | None
) -> tuple[DevNode, ...]:
    """The nodes in `dev.json`, on other ports if the flags say so; without `dev.json`, new nodes."""
    if not directory.exists:
        return plan_nodes(count or _NODES, port or _PORT, resp_port or _RESP_PORT)
    known = directory.load().nodes
    if count not in (None, len(known)):
        raise CliError(
            f"{directory.shown} holds a cluster of {len(known)} nodes, not {count}: leave --nodes out to "
            "carry on with it, or start over with --fresh",
            USAGE,
        )
    first = known[0]
    return plan_nodes(
        len(known),
        port or int(first.address.rpartition(":")[2]),
        resp_port or int(first.resp_address.rpartition(":")[2]),
    )


def _with_machines(directory: DevDirectory, nodes: tuple[DevNode, ...], given: tuple[str, ...]) -> DevState:
    """The state to start with: the machines of `dev.json`, and those that are given now."""
    known = directory.load() if directory.exists else DevState(())
    machines, place = dict(known.machines), known.imported_from
    for text in given:
        name, _, path = text.rpartition("=")
        module, colon, attribute = path.partition(":")
        name = name or attribute.lower()
        if not (module and colon and attribute) or not is_valid_name(name) or name == CLUSTER:
            raise CliError(
                f"--machine {text!r}: give MODULE:CLASS or NAME=MODULE:CLASS, as in shop.stock:Stock; the "
                f"cluster's name has {NAME_RULE}, and is not {CLUSTER!r}",
                USAGE,
            )
        machines[name], place = path, os.getcwd()
    return DevState(nodes, machines=machines, imported_from=place)


def _dir_flag(directory: DevDirectory) -> str:
    return "" if str(directory.shown) == DEFAULT_DIRECTORY else f" --dir {directory.shown}"


def _hints(cluster: DevCluster) -> str:
    """Commands to try next."""
    flag = _dir_flag(cluster.directory)
    nodes = cluster.state.nodes
    ports = [node.resp_address.rpartition(":")[2] for node in nodes]
    rows = [
        (f"redis-cli -p {ports[0]}", f"or any other of {', '.join(ports)}"),
        (f"barque dev status{flag}", "show all nodes and members"),
        (f"barque dev kill {nodes[0].name}{flag}", "watch another node take over; `restart` brings it back"),
        (f"barque dev stop{flag}", f"the data stays in {cluster.directory.shown}"),
    ]
    if cluster.state.machines:
        name = next(iter(cluster.state.machines))
        secret = os.path.relpath(cluster.directory.secret_path("client"))
        url = f"barque://{nodes[0].address}/{name}"
        rows.append(
            (f'barque.connect("{url}", secret_file="{secret}")', "in Python: a client of your machine")
        )
    width = max(len(command) for command, _ in rows)
    return "\n".join(f"  {command:<{width}}   {what}" for command, what in rows)


async def _start(cluster: DevCluster, log_level: str) -> dict[str, Any]:
    """Start all nodes and wait until they serve. If that fails or is interrupted, stop them all."""
    try:
        for node in cluster.state.nodes:
            cluster.start(node.name, log_level)
        return await cluster.wait_served(_START_S)
    except BaseException:
        await cluster.stop()
        raise


def _tell_started(cluster: DevCluster, report: dict[str, Any]) -> None:
    [kv] = [found for found in report["clusters"] if found["name"] == "kv"]
    click.echo(f"{len(cluster.state.nodes)} nodes serve; {kv['leader']} leads in term {kv['term']}.")
    click.echo(_hints(cluster))


async def _foreground(cluster: DevCluster, log_level: str) -> int:
    """Start, watch, and stop at a signal, or when nobody reads any longer what is told."""
    asked_to_stop = asyncio.Event()

    def on_signal() -> None:
        if asked_to_stop.is_set():
            for node in cluster.state.nodes:
                send_signal(node.process, signal.SIGKILL)
        asked_to_stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    starting = asyncio.ensure_future(_start(cluster, log_level))
    stopping = asyncio.ensure_future(asked_to_stop.wait())
    await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        return FAILED
    report = starting.result()
    try:
        _tell_started(cluster, report)
        await _watch(cluster, asked_to_stop)
    finally:
        stopping.cancel()
        killed = await cluster.stop()  # before another word: the terminal may be gone, or the pipe's reader
    for name in killed:
        click.echo(f"{name} did not stop within {STOP_S:g} s and was killed; its data is safe.")
    click.echo(f"All nodes have stopped. The data stays in {cluster.directory.shown}.")
    click.echo(f"`barque dev{_dir_flag(cluster.directory)}` carries on with it; --fresh starts over.")
    return OK


async def _watch(cluster: DevCluster, asked_to_stop: asyncio.Event) -> None:
    """Show the state of the nodes until a signal comes."""
    from barque.cli.dev_view import News, make_view

    view = make_view(f"[bold]barque dev[/bold] in {cluster.directory.shown} — Ctrl-C stops the nodes")
    news = News(cluster, view)
    while not asked_to_stop.is_set():
        cluster.reap()
        report = await cluster.report(1.0)
        news.take(report)
        view.show(report)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asked_to_stop.wait(), _REFRESH_S)
    view.close()
    click.echo("Stopping the nodes …")


# --- verbs on a cluster that runs ------------------------------------------------------------


def _cluster(ctx: click.Context, directory: str | None) -> DevCluster:
    """The cluster in this verb's --dir, else in the group's. Raises `CliError` if there is none."""
    cluster = DevCluster(DevDirectory(Path(directory or ctx.obj)))
    cluster.directory.load()
    return cluster


@dev.command()
@_dir_option(None)
@click.pass_context
def stop(ctx: click.Context, directory: str | None) -> None:
    """Stop all nodes, gracefully; the data stays."""
    cluster = _cluster(ctx, directory)
    asyncio.run(_stop_all(cluster))


async def _stop_all(cluster: DevCluster) -> None:
    """Stop all nodes. A `barque dev` in a foreground stops its nodes itself after a SIGTERM."""
    state = cluster.state
    living = [node.name for node in state.nodes if is_alive(node.process)]
    if send_signal(state.supervisor, signal.SIGTERM):
        await wait_gone(state.supervisor, 2 * STOP_S)
    with cluster.directory.locked():
        killed = await cluster.stop()
        cluster.directory.save(msgspec.structs.replace(cluster.state, supervisor=None))
    if not living:
        click.echo(f"No node of {cluster.directory.shown} was running.")
        return
    click.echo(f"Stopped {', '.join(living)}. The data stays in {cluster.directory.shown}.")
    if killed:
        click.echo(f"{', '.join(killed)} had to be killed after {STOP_S:g} s; the data is safe.")


@dev.command()
@_dir_option(None)
@_timeout_option(2.0)
@output_option
@click.pass_context
def status(ctx: click.Context, directory: str | None, timeout: float, output: str) -> None:
    """Show nodes and members; works even if all nodes are down."""
    cluster = _cluster(ctx, directory)
    report = asyncio.run(cluster.report(timeout))
    down = [node["name"] for node in report["nodes"] if node["state"] == "down"]
    flag = _dir_flag(cluster.directory)
    if len(down) == len(report["nodes"]):
        note = f"No node runs; start them with `barque dev{flag}`."
    elif down:
        note = f"Start {', '.join(down)} again with `barque dev restart NODE{flag}`."
    else:
        note = (
            "All nodes run, and the cluster serves."
            if serves(report, cluster.state.machines)
            else f"Not yet: {lacking(report)}."
        )
    show_report(report, output, note)


@dev.command()
@click.argument("node")
@_dir_option(None)
@click.pass_context
def kill(ctx: click.Context, node: str, directory: str | None) -> int:
    """Kill NODE with SIGKILL, as a crash would."""
    cluster = _cluster(ctx, directory)
    if not asyncio.run(cluster.kill(node)):
        raise CliError(f"{node} is down already; `barque dev restart {node}` starts it")
    flag = _dir_flag(cluster.directory)
    click.echo(f"Killed {node}. `barque dev restart {node}{flag}` brings it back.")
    return OK


@dev.command()
@click.argument("node")
@_dir_option(None)
@_timeout_option(15.0)
@click.option("--log-level", type=click.Choice(LOG_LEVELS), default="info", show_default=True)
@click.pass_context
def restart(ctx: click.Context, node: str, directory: str | None, timeout: float, log_level: str) -> None:
    """Start NODE if it is down; else stop it gracefully and start it again."""
    cluster = _cluster(ctx, directory)
    with cluster.directory.locked():
        asyncio.run(_restart(cluster, node, timeout, log_level))


async def _restart(cluster: DevCluster, name: str, timeout_s: float, log_level: str) -> None:
    was_alive = cluster.is_alive(name)
    if was_alive:
        await cluster.stop([name])
    check_ports((cluster.state.node(name),))
    cluster.start(name, log_level)
    await wait_running(cluster, name, timeout_s)
    process = cluster.state.node(name).process
    click.echo(f"{'Restarted' if was_alive else 'Started'} {name}, pid {process and process.pid}.")


async def wait_running(cluster: DevCluster, name: str, timeout_s: float) -> None:
    """Wait until this node answers. Raises `CliError` if it dies, or does not answer in time."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        cluster.reap()
        [row] = [n for n in (await cluster.report(1.0))["nodes"] if n["name"] == name]
        if row["state"] == "running":
            return
        if row["state"] == "down":
            raise CliError(cluster.obituary(name))
        if asyncio.get_running_loop().time() >= deadline:
            raise CliError(
                f"{name} is {row['state']} after {timeout_s:g} s: {row.get('failure')}; "
                f"see {cluster.directory.log_path(name)}"
            )
        await asyncio.sleep(0.05)
