"""HTTP for programs that watch a node: figures for Prometheus, health, readiness, and what clients cost."""

import asyncio
import json
import re
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.nodes import Nodes, nodes, until
from tests.transport.certificates import Authority

import barque
from barque.errors import ConfigurationError
from barque.gateways.http import exposition, metrics, names, server
from barque.gateways.http.server import HttpServer, parse_bind
from barque.runtime.counters import ServerCounters

PAGE = Path(__file__).parents[2] / "docs/operations/monitoring.md"


async def get(
    address: str, path: str, method: str = "GET", tls: ssl.SSLContext | None = None
) -> tuple[int, dict[str, str], str]:
    """Status, headers and body; an HTTP client of a few lines, for one request."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=tls)
    try:
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(10):
            answer = (await reader.read()).decode()
    finally:
        writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(status.split()[1]), headers, body


async def rest(reader: asyncio.StreamReader) -> bytes:
    """What comes until the connection ends, in order or by force."""
    async with asyncio.timeout(10):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


def read_strictly(text: str) -> dict[str, dict[str, Any]]:
    """Parse a page, and hold it to what `promtool check metrics` asks: name → family."""
    if tool := shutil.which("promtool"):
        subprocess.run([tool, "check", "metrics"], input=text, text=True, check=True, timeout=30)
    found: dict[str, dict[str, Any]] = {}
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert name not in found, f"{name} stands in two places"
        assert family.documentation, name
        assert family.type in ("counter", "gauge"), name
        assert re.fullmatch(r"barque_[a-z][a-z0-9_]*", name), name
        assert family.type == "counter" or not name.endswith("_total"), name
        samples = {tuple(sorted(sample.labels.items())): sample.value for sample in family.samples}
        assert len(samples) == len(family.samples), f"{name} has a sample twice"
        assert {sample.name for sample in family.samples} == {name}
        found[name] = {"type": family.type, "samples": samples}
    declared = re.findall(r"^# TYPE (\S+)", text, flags=re.MULTILINE)
    assert declared == re.findall(r"^# HELP (\S+)", text, flags=re.MULTILINE)
    assert set(declared) == set(found)
    return found


@asynccontextmanager
async def serving(running: Nodes, name: str = "n1", **options: Any) -> AsyncIterator[str]:
    """The address where a node's figures are served."""
    made = HttpServer(running.running[name], "127.0.0.1:0", **options)
    await made.start()
    try:
        yield made.address
    finally:
        await made.stop()


async def test_a_node_tells_its_figures(tmp_path: Path) -> None:
    """CNT-08: totals, peers and busy members, in Prometheus' text; each metric is on the page of the docs."""
    async with nodes(tmp_path, 2) as running, running.client("n1") as client, serving(running) as address:
        for cluster in ("busy", "idle"):
            await client.start_cluster(cluster, "adder")
        for _ in range(3):
            await client.process_command("busy", 1)
        await client.transfer_leadership("busy", "n1")
        await running.leader(client, "idle")
        status, headers, text = await get(address, "/metrics?top=1")
        found = read_strictly(text)
        assert status == 200
        assert headers["content-type"] == exposition.CONTENT_TYPE
        totals = found["barque_commands_total"]["samples"]
        assert totals[()] >= 3
        members = found["barque_member_commands_total"]["samples"]
        assert set(members) == {(("cluster", "busy"), ("member", "busy@n1"))}
        assert sum(found["barque_members"]["samples"].values()) == 2
        assert found["barque_peer_up"]["samples"].keys() == {(("peer", "n2"),)}
        assert found["barque_wal_batches_total"]["samples"][()] > 0
        known = set(re.findall(r"`(barque_\w+)`", PAGE.read_text()))
        assert known >= set(found), sorted(set(found) - known)
        told = {metric.name for metric in vars(names).values() if isinstance(metric, exposition.Metric)}
        for table in vars(names).values():
            if isinstance(table, dict):
                told |= {m.name for m in table.values() if isinstance(m, exposition.Metric)}
        assert known == told, sorted(known ^ told)


async def test_members_come_in_pages_by_prefix(tmp_path: Path) -> None:
    """A prefix names clusters; `limit` bounds a page, and `after` goes on behind its last cluster."""
    async with nodes(tmp_path, 1) as running, running.client() as client, serving(running) as address:
        for cluster in ("a-1", "a-2", "a-3", "b-1"):
            await client.start_cluster(cluster, "adder")

        async def page(query: str) -> list[str]:
            found = read_strictly((await get(address, f"/metrics?{query}"))[2])
            leads = found.get("barque_member_leads", {"samples": {}})["samples"]
            assert found["barque_members_shown"]["samples"] == {(): len(leads)}
            assert "barque_commands_total" not in found  # a second job must not count the node twice
            return sorted(dict(labels)["cluster"] for labels in leads)

        assert await page("prefix=a-") == ["a-1", "a-2", "a-3"]
        assert await page("prefix=a-&limit=2") == ["a-1", "a-2"]
        assert await page("prefix=a-&limit=2&after=a-2") == ["a-3"]
        assert await page("prefix=") == ["a-1", "a-2", "a-3", "b-1"]
        assert await page("prefix=zzz") == []
        for query in ("top=-1", "top=x", "top=201", "prefix=a&limit=1e3", "top=²"):
            assert (await get(address, f"/metrics?{query.replace('²', '%C2%B2')}"))[0] == 400


async def test_health_and_readiness(tmp_path: Path) -> None:
    """A node that lives is healthy; it is ready once its members know a leader, and says why it is not."""
    async with nodes(tmp_path, 3) as running, running.client("n1") as client, serving(running) as address:
        await client.start_cluster("sums", "adder")

        async def ready() -> bool:
            status, _, body = await get(address, "/ready")
            return status == 200 and json.loads(body)["ready"] is True

        await until(ready, "a node that is ready")
        await running.stop("n2", "n3")

        async def unready() -> Any:
            status, _, body = await get(address, "/ready")
            return json.loads(body) if status == 503 else None

        told = await until(unready, "a node without a majority")
        assert told["ready"] is False
        assert told["problems"] == 1
        assert "sums@n1" in told["reasons"][0]
        assert "no leader" in told["reasons"][0]
        status, _, body = await get(address, "/health")
        assert (status, json.loads(body)["node"]) == (200, "n1")


async def test_a_member_that_failed_makes_its_node_unready(tmp_path: Path) -> None:
    """The reason is the machine's error; the process stays healthy."""
    async with nodes(tmp_path, 1) as running, running.client() as client, serving(running) as address:
        await client.start_cluster("sums", "adder")
        with pytest.raises(barque.BarqueError):
            await client.process_command("sums", "boom")
        status, _, body = await get(address, "/ready")
        assert status == 503
        assert "boom" in json.loads(body)["reasons"][0]
        found = read_strictly((await get(address, "/metrics"))[2])
        assert found["barque_member_failed"]["samples"][(("cluster", "sums"), ("member", "sums@n1"))] == 1
        assert (await get(address, "/health"))[0] == 200


async def test_nothing_else_is_served(tmp_path: Path) -> None:
    """Other paths and methods are refused; nonsense ends its connection; HEAD has no body."""
    async with nodes(tmp_path, 1) as running, serving(running) as address:
        assert (await get(address, "/"))[0] == 404
        assert (await get(address, "/metrics", "POST"))[0] == 405
        assert (await get(address, "/health", "DELETE"))[0] == 405
        status, _, body = await get(address, "/health", "HEAD")
        assert (status, body) == (200, "")
        host, _, port = address.rpartition(":")
        for nonsense in (b"\x00\x01\x02\r\n\r\n", b"GET /" + b"x" * 20_000, b"BARQUE" * 10_000):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(nonsense)
            assert (await rest(reader)).partition(b"\r\n")[0] in (b"HTTP/1.1 400 Bad Request", b"")
            writer.close()
        assert (await get(address, "/health"))[0] == 200


async def test_strangers_take_only_so_many_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silent clients and slow readers are bounded in number and time: afterwards others are served."""
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 4)
    monkeypatch.setattr(server, "CONNECTION_S", 0.3)
    async with nodes(tmp_path, 1) as running, serving(running) as address:
        host, _, port = address.rpartition(":")
        silent = [await asyncio.open_connection(host, int(port)) for _ in range(8)]
        silent[0][1].write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        for reader, writer in silent:
            assert await rest(reader) == b""
            writer.close()

        async def served() -> bool:
            return (await get(address, "/health"))[0] == 200

        await until(served, "an answer")


async def test_figures_of_many_members_leave_turns_to_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page is made in slices: other callbacks run between them. Within a second it is not made again."""
    monkeypatch.setattr(metrics, "SLICE", 1)
    async with nodes(tmp_path, 1) as running, running.client() as client, serving(running) as address:
        for number in range(5):
            await client.start_cluster(f"c{number}", "adder")
        turns = 0
        making = asyncio.ensure_future(metrics.node_families(running.running["n1"], 2))
        while not making.done():
            turns += 1
            await asyncio.sleep(0)
        assert turns > 5
        families = making.result()
        assert list(families[names.SHOWN]) == [((), 2)]
        first, second = [(await get(address, "/metrics"))[2] for _ in range(2)]
        assert first == second


async def test_http_over_tls(tmp_path: Path) -> None:
    """With `tls` the port shows the node's newest certificate, and plain clients get nothing."""
    ca = Authority(tmp_path / "pki")
    shown = ca.issue("n1", dns=("n1", "localhost"))
    made = Nodes(tmp_path, 1)
    made.credentials = {"tls": barque.TlsConfig(str(shown), str(ca.key_of(shown)), str(ca.path))}
    await made.start()
    try:
        async with serving(made, tls=made.running["n1"].server_tls) as address:
            context = ssl.create_default_context(cafile=str(ca.path))
            context.check_hostname = False
            assert (await get(address, "/health", tls=context))[0] == 200
            read_strictly((await get(address, "/metrics", tls=context))[2])
            with pytest.raises((ConnectionError, IndexError)):
                await get(address, "/health")
    finally:
        await made.stop()


def test_every_counter_has_a_metric() -> None:
    """CNT-08: what a server counts is told, under Ra's name; a new counter cannot be forgotten."""
    assert set(ServerCounters.__slots__) <= set(names.MEMBER)
    assert set(names.GAUGES) >= ServerCounters.GAUGES


def test_text_is_escaped() -> None:
    """Quotes, backslashes and line ends in labels come back as they were."""
    metric = exposition.gauge("barque_x", "a \\ and\na line")
    labels = (("cluster", 'a"b\\c\nd'),)
    text = exposition.render({metric: [(labels, 1.5)], exposition.gauge("barque_none", "-"): []})
    [family] = text_string_to_metric_families(text)
    assert family.documentation == "a \\ and\na line"
    assert family.samples[0].labels == dict(labels)
    assert family.samples[0].value == 1.5
    assert exposition.render({}) == ""


@pytest.mark.parametrize("bind", ["", "9100", "host", "host:", ":9100", "host:x", "host:70000", "host:²"])
def test_a_bind_that_cannot_work_is_refused(bind: str) -> None:
    """The message names the value and the form."""
    with pytest.raises(ConfigurationError, match="http: bind"):
        parse_bind(bind)


async def test_a_taken_address_is_named(tmp_path: Path) -> None:
    """The second server says which address, and what helps."""
    async with nodes(tmp_path, 1) as running, serving(running) as address:
        with pytest.raises(ConfigurationError, match=f"cannot listen on {address}.*choose another"):
            await HttpServer(running.running["n1"], address).start()
