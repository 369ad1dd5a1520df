"""`barque demo`: kill the leader while clients write, and count what was lost."""

import asyncio
import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from barque.cli.demo_ledger import Ledger, Verdict
from barque.cli.dev_directory import CLUSTER, HOST, DevDirectory, DevNode, DevState
from barque.cli.dev_processes import DevCluster
from barque.cli.failures import FAILED, OK, CliError
from barque.cli.signals import run_until_told
from barque.client.client import Client
from barque.errors import BarqueError, OutcomeUnknown, QueryTimeout, Refused
from barque.machine.kv_commands import IncrBy, Mget

_NODES = 3
_WRITERS = 8
_PAGE = 500
_START_S = 15.0
_WRITE_S = 10.0
_POLL_S = 0.02


class Writers:
    """Writes each key once, several at a time, and notes the outcome of each."""

    def __init__(self, client: Client, keys: int) -> None:
        self.ledger = Ledger()
        self.answered = 0
        self.killed_at: float | None = None
        self.resumed_at: float | None = None
        """The time of the first acknowledgement of a write that began after the kill."""
        self._client = client
        self._keys = iter(range(keys))

    async def run(self) -> None:
        """Write until all keys have an outcome."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_WRITERS):
                group.create_task(self._write())

    async def _write(self) -> None:
        for number in self._keys:
            await self._write_one(b"demo:%06d" % number)
            self.answered += 1

    async def _write_one(self, key: bytes) -> None:
        """Try a refused write again: it did not happen. Never repeat a write without an answer."""
        deadline = time.monotonic() + _WRITE_S
        while True:
            began = time.monotonic()
            try:
                await self._client.process_command(CLUSTER, IncrBy(key, 1), timeout_s=_WRITE_S)
            except OutcomeUnknown:
                self.ledger.unknown.add(key)
                return
            except Refused:
                if time.monotonic() >= deadline:
                    self.ledger.refused.add(key)
                    return
                await asyncio.sleep(_POLL_S)
            else:
                self.ledger.acknowledged.add(key)
                if self.resumed_at is None and self.killed_at is not None and began >= self.killed_at:
                    self.resumed_at = time.monotonic()
                return

    async def wait_answered(self, count: int) -> None:
        """Wait until that many keys have an outcome. Raises `CliError` if that takes too long."""
        deadline = time.monotonic() + _WRITE_S * 2
        while self.answered < count:
            if time.monotonic() >= deadline:
                raise CliError(
                    f"only {self.answered} of {count} writes have an outcome: is this machine busy?"
                )
            await asyncio.sleep(_POLL_S / 4)


@click.command()
@click.option("--keys", type=click.IntRange(100, 1_000_000), default=3000, show_default=True)
@click.option("--keep", is_flag=True, help="Keep the directory with logs and data.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=60.0,
    show_default=True,
    help="Seconds for the whole demo.",
)
def demo(keys: int, keep: bool, timeout: float) -> int:
    """Kill the leader of three nodes during writes, and count what was lost. Takes a few seconds.

    Exits with 0 only if every acknowledged write happened exactly once.
    """
    root = Path(tempfile.mkdtemp(prefix="barque-demo-"))
    try:
        verdict = run_until_told(_bounded(DevCluster(DevDirectory(root)), keys, timeout))
    finally:
        if keep:
            click.echo(f"Everything is in {root}.")
        else:
            shutil.rmtree(root, ignore_errors=True)
    return OK if verdict.is_good else FAILED


async def _bounded(cluster: DevCluster, keys: int, timeout_s: float) -> Verdict:
    """Run the whole demo under a deadline. It leaves no node behind, however it ends."""
    cluster.directory.write(DevState(_free_nodes()))
    try:
        async with asyncio.timeout(timeout_s):
            return await _perform(cluster, keys)
    except BarqueError:
        raise  # some are `TimeoutError`s, too
    except TimeoutError:
        raise CliError(f"not done after {timeout_s:g} s; see --timeout, and --keep for the logs") from None
    finally:
        await cluster.stop()


def _free_nodes() -> tuple[DevNode, ...]:
    """Nodes on free ports."""
    sockets = [socket.create_server((HOST, 0)) for _ in range(2 * _NODES)]
    ports = [probe.getsockname()[1] for probe in sockets]
    for probe in sockets:
        probe.close()
    return tuple(
        DevNode(f"n{i + 1}", f"{HOST}:{ports[2 * i]}", f"{HOST}:{ports[2 * i + 1]}") for i in range(_NODES)
    )


async def _perform(cluster: DevCluster, keys: int) -> Verdict:
    began = time.monotonic()
    _step(1, f"Starting {_NODES} nodes in {cluster.directory.root}: processes and files of their own.")
    for node in cluster.state.nodes:
        cluster.start(node.name)
    kv = _kv(await cluster.wait_served(_START_S))
    _result(f"{kv['leader']} leads in term {kv['term']}, {time.monotonic() - began:.1f} s after the start.")
    reach = cluster.reach(_WRITE_S)
    async with reach.client() as client:
        writers = Writers(client, keys)
        _step(2, f"Writing {keys:,} keys, {_WRITERS} at a time; each is on a majority's disks when answered.")
        writing = asyncio.create_task(writers.run())
        try:
            victim = await _kill_the_leader(cluster, writers, keys // 3)
            await writing
        finally:
            writing.cancel()
        acknowledged, unknown = len(writers.ledger.acknowledged), len(writers.ledger.unknown)
        _result(
            f"All {keys:,} have an outcome: {acknowledged:,} acknowledged, {unknown} unknown"
            + (" (in flight when the leader died)." if unknown else ".")
        )
        _step(4, "Reading everything back.")
        verdict = writers.ledger.judge(await _read_back(client, writers.ledger.keys()))
        there = verdict.acknowledged - verdict.lost
        _result(f"{there:,} of {verdict.acknowledged:,} acknowledged writes are there.")
    await _bring_back(cluster, victim)
    _conclude(verdict, time.monotonic() - began)
    return verdict


async def _kill_the_leader(cluster: DevCluster, writers: Writers, after: int) -> str:
    """SIGKILL the leader in the middle of the writes; report the new leader, and how long there was none."""
    await writers.wait_answered(after)
    old = _kv(await cluster.report(1.0))["leader"]
    victim = str(old).rpartition("@")[2]
    _step(3, f"kill -9 of {victim}, the leader, after {writers.answered:,} writes.")
    writers.killed_at = time.monotonic()
    await cluster.kill(victim)
    deadline = time.monotonic() + _START_S
    while (kv := _kv(await cluster.report(0.5)))["leader"] in (None, old) or writers.resumed_at is None:
        if time.monotonic() >= deadline:
            raise CliError(f"no leader serves {_START_S:g} s after {victim} was killed")
        await asyncio.sleep(_POLL_S)
    pause_ms = (writers.resumed_at - writers.killed_at) * 1000
    _result(f"{kv['leader']} leads now, in term {kv['term']}.")
    _result(f"The next write was acknowledged {pause_ms:.0f} ms after the kill.")
    return victim


async def _read_back(client: Client, keys: list[bytes]) -> dict[bytes, int]:
    """Read the value of each key that exists, linearizably."""
    found: dict[bytes, int] = {}
    for start in range(0, len(keys), _PAGE):
        page = keys[start : start + _PAGE]
        try:
            values = await client.consistent_query(CLUSTER, Mget(page))
        except (QueryTimeout, Refused) as error:
            raise CliError(f"cannot read back: {error}") from error
        found.update({k: int(v) for k, v in zip(page, values, strict=True) if v is not None})
    return found


async def _bring_back(cluster: DevCluster, name: str) -> None:
    """Restart the killed node and wait until it has applied everything that the others have."""
    _step(5, f"Starting {name} again.")
    began = time.monotonic()
    cluster.start(name)
    while True:
        kv = _kv(await cluster.report(1.0))
        members = {member["node"]: member for member in kv["members"]}
        furthest = max((m["commit_index"] for m in members.values()), default=0)
        mine = members.get(name)
        if mine is not None and kv["leader"] is not None and mine["last_applied"] >= furthest > 0:
            break
        if not cluster.is_alive(name):
            raise CliError(cluster.obituary(name))
        if time.monotonic() - began > _START_S:
            raise CliError(f"{name} has not caught up after {_START_S:g} s")
        await asyncio.sleep(_POLL_S)
    _result(
        f"It has caught up after {time.monotonic() - began:.1f} s: {mine['last_applied']:,} entries applied."
    )


def _kv(report: dict[str, Any]) -> dict[str, Any]:
    """The cluster in a report; a cluster without leader and members, if no member answers."""
    for cluster in report["clusters"]:
        if cluster["name"] == CLUSTER:
            return dict(cluster)
    return {"name": CLUSTER, "leader": None, "term": 0, "members": []}


def _conclude(verdict: Verdict, took_s: float) -> None:
    happened = f" ({verdict.unknown_happened} of them did happen)" if verdict.unknown else ""
    click.echo(
        f"\nacknowledged {verdict.acknowledged:,}   lost {verdict.lost}   duplicated {verdict.duplicated}   "
        f"unknown {verdict.unknown}{happened}"
    )
    if verdict.refused:
        click.echo(f"refused {verdict.refused}, of which {verdict.false_refusals} happened nevertheless")
    if verdict.is_good:
        click.secho(f"Nothing that was acknowledged is lost. {took_s:.1f} s in all.", fg="green", bold=True)
    else:
        click.secho("A promise was broken: this is a bug in Barque, please report it.", fg="red", bold=True)


def _step(number: int, text: str) -> None:
    click.echo(f"{click.style(str(number), bold=True)}  {text}")


def _result(text: str) -> None:
    click.echo(f"   {text}")
